"""Combinations of the gradients of several terms."""

from framework.gradients.combiner import GradientCombiner, WeightedSum

__all__ = ["GradientCombiner", "WeightedSum"]
