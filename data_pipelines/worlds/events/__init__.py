"""The world `events`."""
