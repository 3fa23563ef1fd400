"""The world `bounce`."""
