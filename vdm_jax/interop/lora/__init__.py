"""Low-rank adapters in and out."""
