"""What training takes from an import: weights to start from, encoders, conditions of its family."""
