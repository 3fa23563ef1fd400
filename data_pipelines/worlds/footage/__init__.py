"""A corpus of mixed video files with exact labels."""
