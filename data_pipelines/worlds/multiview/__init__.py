"""The world `multiview`."""
