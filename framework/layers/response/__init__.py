"""Layers whose weights are functions of hyperparameters."""
