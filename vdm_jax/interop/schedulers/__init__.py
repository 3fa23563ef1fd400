"""Published schedulers as processes and solvers."""
