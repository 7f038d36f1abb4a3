"""Cosine decay whose warm-up covers momentum and biases, too."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from framework.schedules.steps import resolve_total_steps
from framework.utilities.checks import check_at_least, check_interval


class MomentumWarmupCosine(LRScheduler):
    """Half a cosine over the whole run, towards which rates and momentum move in the first steps.

    With f the final fraction, step t = 0, ..., T - 1 has the learning rate
    ``lr * (1 + (f - 1) * (1 - cos(pi * t / T)) / 2)``. In the w = max(ceil(warmup_fraction * T),
    min_warmup_steps) steps before that, it lies t / w of the way from 0 to this rate, that of a
    group with ``bias`` from ``bias_lr``, and the momentum t / w of the way from ``warmup_momentum``
    to the optimizer's: SGD's momentum, or Adam's first beta.

    The schedule is that of YOLOv5, which BPJDet is trained by: Zhou et al., arXiv:2304.10765.
    ``framework.optim.decay_norm_bias_groups`` makes groups that say which are biases.

    Args:
        optimizer: Optimizer whose learning rates and momentum are scheduled.
        total_steps: Optimizer steps T, or ``'auto'`` for those of the run.
        warmup_fraction: Share of the run that is warm-up, in [0, 1]; 0.03 is 3 epochs of 100.
        min_warmup_steps: Smallest number of steps that are warm-up.
        final_fraction: Factor f reached after the last step, in [0, 1].
        bias_lr: Learning rate of biases in step 0; with Adam 0 is usual.
        warmup_momentum: Momentum of step 0, in [0, 1); None leaves the optimizer's alone.

    Raises:
        ValueError: An argument is out of range, or the optimizer has no momentum to warm up.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
        >>> schedule = MomentumWarmupCosine(optimizer, total_steps=10, warmup_fraction=0.2)
        >>> schedule.get_last_lr(), optimizer.param_groups[0]["momentum"]
        ([0.0], 0.8)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | Literal["auto"] = "auto",
        warmup_fraction: float = 0.03,
        min_warmup_steps: int = 0,
        final_fraction: float = 0.2,
        bias_lr: float = 0.1,
        warmup_momentum: float | None = 0.8,
    ) -> None:
        self.total_steps = resolve_total_steps(total_steps)
        check_interval("[0, 1]", warmup_fraction=warmup_fraction, final_fraction=final_fraction)
        check_interval("[0, 1)", warmup_momentum=warmup_momentum)
        check_at_least(0, min_warmup_steps=min_warmup_steps, bias_lr=bias_lr)
        self.warmup_steps = max(math.ceil(warmup_fraction * self.total_steps), min_warmup_steps)
        self.final_fraction = final_fraction
        self.bias_lr = bias_lr
        self.warmup_momentum = warmup_momentum
        self.base_momentums: list[float] = []
        if warmup_momentum is not None:
            self.base_momentums = [
                _momentum_of(group, optimizer) for group in optimizer.param_groups
            ]
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group in this step."""
        done = min(1.0, self.last_epoch / self.total_steps)
        factor = 1 + (self.final_fraction - 1) * (1 - math.cos(math.pi * done)) / 2
        return [
            self._warm(self.bias_lr if group.get("bias") else 0.0, base * factor)
            for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True)
        ]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step's learning rates and momentum."""
        super().step(epoch)
        if self.warmup_momentum is None:
            return
        for group, base in zip(self.optimizer.param_groups, self.base_momentums, strict=True):
            momentum = self._warm(self.warmup_momentum, base)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum

    def _warm(self, start: float, target: Any) -> Any:
        """Return the value of this step on the way from one to another."""
        if self.last_epoch >= self.warmup_steps:
            return target
        return start + (target - start) * self.last_epoch / self.warmup_steps


def _momentum_of(group: dict[str, object], optimizer: Optimizer) -> float:
    """Return the momentum of a group of parameters, or raise ``ValueError`` if it has none."""
    betas = group.get("betas")
    momentum = betas[0] if isinstance(betas, (tuple, list)) else group.get("momentum")
    if not isinstance(momentum, (int, float)) or momentum == 0:
        raise ValueError(
            f"warmup_momentum needs an optimizer with momentum, and {type(optimizer).__name__} has "
            "none here: set its momentum, or warmup_momentum to null."
        )
    return float(momentum)
