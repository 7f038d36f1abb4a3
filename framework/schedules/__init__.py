"""Learning-rate schedules that count optimizer steps."""

from framework.schedules.cosine import WarmupCosine
from framework.schedules.trapezoid import WarmupStableDecay

__all__ = ["WarmupCosine", "WarmupStableDecay"]
