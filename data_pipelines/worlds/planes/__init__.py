"""The world `planes`."""
