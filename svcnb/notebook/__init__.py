"""What notebooks need: the workspace, the machine, players and tables, the conversion panel."""
