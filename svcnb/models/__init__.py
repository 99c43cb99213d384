"""Networks: tensors in, tensors out. Imports torch and this folder only."""
