"""Trained runs out of here, in the form that others open."""
