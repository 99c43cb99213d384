"""From recordings to batches: clips, features of the clips, datasets."""
