"""Training for every model: the loop, its state, checkpoints, validation, losses, several processes."""
