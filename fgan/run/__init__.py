"""A run: from options to a run directory, and what is done with one afterwards."""
