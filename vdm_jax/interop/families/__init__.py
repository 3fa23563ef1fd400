"""Published classes: options, network and key map of each."""
