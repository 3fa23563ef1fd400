"""Weights in the layouts of the models' authors, told apart by the names of their tensors and renamed both ways."""
