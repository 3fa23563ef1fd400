"""What is measured on every clip before anything is decided: one file per family of scores."""
