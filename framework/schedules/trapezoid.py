"""A constant learning rate between a linear warm-up and a linear decay."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from framework.schedules.steps import resolve_total_steps
from framework.utilities.checks import check_interval


class WarmupStableDecay(LambdaLR):
    """Linear warm-up, a constant part, then a linear decay to 0 at the end of the run.

    With w = ceil(warmup_fraction * T) and d = ceil(decay_fraction * T), step t = 0, ..., T - 1
    multiplies the learning rate by ``min(1, (t + 1) / w, (T - t) / d)``.

    Paper: Hu et al., MiniCPM, COLM 2024, arXiv:2404.06395, here with a linear decay.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps T, or ``'auto'`` for those of the run.
        warmup_fraction: Share of the run that is warm-up, in [0, 1].
        decay_fraction: Share of the run that is decay, in [0, 1].

    Raises:
        ValueError: a fraction or ``total_steps`` is out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupStableDecay(optimizer, 10, warmup_fraction=0.2, decay_fraction=0.2)
        >>> round(schedule.get_last_lr()[0], 3)
        0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | Literal["auto"] = "auto",
        warmup_fraction: float = 0.0,
        decay_fraction: float = 0.2,
    ) -> None:
        steps = resolve_total_steps(total_steps)
        check_interval("[0, 1]", warmup_fraction=warmup_fraction, decay_fraction=decay_fraction)
        warmup = max(1, math.ceil(warmup_fraction * steps))
        decay = max(1, math.ceil(decay_fraction * steps))

        def factor(step: int) -> float:
            return max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / decay))

        super().__init__(optimizer, factor)
