"""The world `edits`."""
