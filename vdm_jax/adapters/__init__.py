"""Small trained parts spliced into a frozen network; each leaves the network as it was when it is put in."""
