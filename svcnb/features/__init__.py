"""What is computed from audio: content features and f0."""
