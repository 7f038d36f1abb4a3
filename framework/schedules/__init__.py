"""Learning-rate schedules that count optimizer steps."""

from framework.schedules.cosine import WarmupCosine

__all__ = ["WarmupCosine"]
