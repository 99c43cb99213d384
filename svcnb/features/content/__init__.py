"""Content features: what is said, with as little as possible of who says it."""
