"""The parametric form of refined schedules: a linear warm-up, then a power, 0 in the last step."""

from __future__ import annotations

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from framework.schedules.polynomial import power_of_rest
from framework.schedules.steps import resolve_total_steps
from framework.utilities.checks import check_interval, check_positive


class WarmupPolyLR(LambdaLR):
    """Linear warm-up, then a power of the remaining share of the run, 0 in its last step.

    Step t = 1, ..., T multiplies the learning rate by ``t / (a T)`` while t < a T, and then by
    ``(1 - (t - a T) / (T - a T)) ** b``. ``WarmupPolynomial`` is another closed form of the same
    shape: its warm-up is a whole number of steps, its last step is not 0, and it counts from 0.

    Paper: Defazio et al., *When, Why and How Much? Adaptive Learning Rate Scheduling by
    Refinement*, 2023, arXiv:2310.07831. Its fits of a / b to refined schedules, for problems like
    these without a first run: DLRM 0.20 / 0.9, GPT 0.28 / 1.0, RoBERTa 0.45 / 0.8, MRI 0.40 / 0.9,
    RCNN 0 / 1.5, ImageNet 0.01 / 3.0.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps T, or ``'auto'`` for those of the run.
        warmup: Share a of the run that is warm-up, in [0, 1).
        power: Exponent b, above 0; 1 is a linear decay.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = WarmupPolyLR(optimizer, total_steps=5, warmup=0.4)
        >>> [round(schedule.lr_lambdas[0](step), 3) for step in range(5)]
        [0.5, 1.0, 0.667, 0.333, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | Literal["auto"] = "auto",
        warmup: float = 0.1,
        power: float = 1.0,
    ) -> None:
        steps = resolve_total_steps(total_steps)
        check_interval("[0, 1)", warmup=warmup)
        check_positive(power=power)
        warmup_steps = warmup * steps

        def factor(step: int) -> float:
            taken = step + 1
            if taken < warmup_steps:
                return taken / warmup_steps
            return power_of_rest(taken, warmup_steps, steps, power)

        super().__init__(optimizer, factor)
