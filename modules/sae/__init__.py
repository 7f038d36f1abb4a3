"""Sparse autoencoders: activations as sparse sums of learned directions."""
