"""The world `retrieval`."""
