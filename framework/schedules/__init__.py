"""Learning-rate schedules that count optimizer steps."""

from framework.schedules.cosine import WarmupCosine
from framework.schedules.inverse_decay import InverseDecay
from framework.schedules.trapezoid import WarmupStableDecay

__all__ = ["InverseDecay", "WarmupCosine", "WarmupStableDecay"]
