"""Combinations of the gradients of several terms."""

from framework.gradients.combiner import (
    Combination,
    GradientCombiner,
    GradientFacts,
    WeightedSum,
)
from framework.gradients.exact_pareto import EPO
from framework.gradients.held_out_lp import HeldOutGuidedLP
from framework.gradients.torch_jd import TorchJD

__all__ = [
    "EPO",
    "Combination",
    "GradientCombiner",
    "GradientFacts",
    "HeldOutGuidedLP",
    "TorchJD",
    "WeightedSum",
]
