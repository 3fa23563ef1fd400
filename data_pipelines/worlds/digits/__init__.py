"""The world `digits`."""
