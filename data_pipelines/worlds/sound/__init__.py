"""The world `sound`."""
