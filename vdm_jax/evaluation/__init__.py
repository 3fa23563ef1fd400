"""Judging: distances between sets of clips, and the claims of published methods."""
