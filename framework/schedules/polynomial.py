"""Polynomial decay to 0 with a linear warm-up, over the whole run."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from framework.schedules.steps import resolve_total_steps
from framework.utilities.checks import check_interval, check_positive


class WarmupPolynomial(LambdaLR):
    """Linear warm-up, then a power of the remaining share of the run, down to 0.

    With w = ceil(warmup_fraction * T), step t = 0, ..., T - 1 multiplies the learning rate by
    (t + 1) / w while t < w, and then by ``(1 - (t - w) / (T - w)) ** power``. It is the closed form
    of the schedule of insightface's ``arcface_torch``, but for the warm-up, which there is a step
    behind, and begins with one step at the whole learning rate.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps T, or ``'auto'`` for those of the run.
        warmup_fraction: Share of the run that is warm-up, in [0, 1).
        power: Exponent, above 0; 1 is a linear decay.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupPolynomial(optimizer, total_steps=4)
        >>> [round(schedule.lr_lambdas[0](step), 3) for step in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | Literal["auto"] = "auto",
        warmup_fraction: float = 0.0,
        power: float = 1.0,
    ) -> None:
        steps = resolve_total_steps(total_steps)
        check_interval("[0, 1)", warmup_fraction=warmup_fraction)
        check_positive(power=power)
        warmup_steps = math.ceil(warmup_fraction * steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            return power_of_rest(step, warmup_steps, steps, power)

        super().__init__(optimizer, factor)


def power_of_rest(step: float, start: float, total_steps: int, power: float) -> float:
    """Return a power of the share of a decay that is left, which is 1 where it starts.

    Args:
        step: Step of the run.
        start: Step in which the decay starts.
        total_steps: Step in which it reaches 0.
        power: Exponent.
    """
    left = max(0, total_steps - step) / max(1, total_steps - start)
    return float(left**power)
