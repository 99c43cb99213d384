"""Network blocks: tensors in, tensors out. Imports torch and this package only."""
