"""Weights in files: tensors, which parameter each of them is, and where its pieces go."""
