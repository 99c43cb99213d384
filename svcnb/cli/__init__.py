"""The command line: one sub-command per step, each over the functions that the notebooks call."""
