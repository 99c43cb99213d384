"""Content features: linguistic content with as little speaker information as possible."""
