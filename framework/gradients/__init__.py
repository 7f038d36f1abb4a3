"""Combinations of the gradients of several terms."""

from framework.gradients.combiner import (
    Combination,
    GradientCombiner,
    GradientFacts,
    WeightedSum,
)

__all__ = ["Combination", "GradientCombiner", "GradientFacts", "WeightedSum"]
