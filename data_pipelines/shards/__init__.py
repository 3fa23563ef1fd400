"""The on-disk format: schema, manifest, writing, reading, verifying."""
