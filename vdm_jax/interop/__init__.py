"""PyTorch: published checkpoints in and out."""
