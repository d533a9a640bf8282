"""Runs: from options to a run directory, and sampling, resuming and inspecting afterwards."""
