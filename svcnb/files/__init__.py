"""Files: atomic writes, archives, checkpoints read without running code in them, downloads."""
