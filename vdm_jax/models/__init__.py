"""Backbones and encoders: one room per family, composed from `nn/` and `attention/`."""
