"""What there is to curate: folders, tars, tables and robot data sets, each as a list of sources."""
