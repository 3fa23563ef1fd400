"""PyTorch files that exports carry along: data of this package, which never imports them."""
