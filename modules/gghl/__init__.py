"""Oriented objects as Gaussians on feature levels: GGHL."""
