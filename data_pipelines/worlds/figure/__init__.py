"""The world `figure`."""
