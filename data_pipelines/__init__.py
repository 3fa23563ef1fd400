"""Data: procedural worlds, curation of footage, the shard format, the training loader."""
