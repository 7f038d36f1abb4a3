"""Values of a further evaluation under a Gaussian process."""
