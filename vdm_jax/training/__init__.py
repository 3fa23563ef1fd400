"""Training: state, step, optimiser, loop, checkpoints, metrics and the run directory."""
