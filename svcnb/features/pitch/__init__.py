"""f0 estimation: estimators, f0 tracks, and the neural f0 networks."""
