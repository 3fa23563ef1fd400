"""The world `sprites`."""
