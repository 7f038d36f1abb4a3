"""Cosine decay with a linear warm-up, over the whole run."""

from __future__ import annotations

import math
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from framework.schedules.steps import resolve_total_steps
from framework.utilities.checks import check_interval


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine down to a fraction of the learning rate.

    With w = ceil(warmup_fraction * T), step t = 0, ..., T - 1 multiplies the learning rate by
    (t + 1) / w while t < w, and then by ``f + (1 - f) * (1 + cos(pi * (t - w) / (T - w))) / 2``.

    Paper: Loshchilov and Hutter, SGDR, ICLR 2017, arXiv:1608.03983, without restarts.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps T, or ``'auto'`` for those of the run.
        warmup_fraction: Share of the run that is warm-up, in [0, 1).
        final_fraction: Factor f reached after the last step, in [0, 1].

    Raises:
        ValueError: a fraction or ``total_steps`` is out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupCosine(optimizer, total_steps=4)
        >>> round(schedule.get_last_lr()[0], 3)
        1.0
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | Literal["auto"] = "auto",
        warmup_fraction: float = 0.0,
        final_fraction: float = 0.0,
    ) -> None:
        steps = resolve_total_steps(total_steps)
        check_interval("[0, 1)", warmup_fraction=warmup_fraction)
        check_interval("[0, 1]", final_fraction=final_fraction)
        warmup_steps = math.ceil(warmup_fraction * steps)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
            return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * done)) / 2

        super().__init__(optimizer, factor)
