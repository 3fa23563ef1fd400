"""What several worlds draw with."""
