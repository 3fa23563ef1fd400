"""Procedural videos with exact ground truth."""
