"""Files that are whole or absent: writing, locks, seals, run directories, checkpoints."""
