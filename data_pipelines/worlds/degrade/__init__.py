"""The world `degrade`."""
