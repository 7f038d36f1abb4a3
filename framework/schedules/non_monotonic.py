"""A learning rate that falls when validation is no better than some evaluations ago."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from framework.utilities.checks import check_at_least, check_interval


class NonMonotonicDecay(ReduceLROnPlateau):
    """Multiplies the learning rate where a metric is above the best of all but the last few values.

    With values v_1 to v_t so far, it does so at t if t - 1 > ``window`` and v_t is above the least
    of v_1 to v_{t - 1 - window}. Unlike ``ReduceLROnPlateau`` it does not wait after a decay: as
    long as the metric stays above, each evaluation is one. It is stepped after each evaluation of
    a fit, whose number is what ``window`` counts.

    Papers: the trigger of ASGD in Merity et al., arXiv:1708.02182, which decays nothing; the code
    of MacKay et al., Self-Tuning Networks, arXiv:1903.03088, decays so, by 4 with a window of 5 for
    its language model and by 10 with one of 60 for its image classifier.

    Args:
        optimizer: Optimizer whose learning rates fall.
        monitor: Name of the metric; the smaller, the better.
        factor: Factor of a decay.
        window: Number of latest values that a value is not compared with.
        min_lr: Smallest learning rate.

    Raises:
        ValueError: A number out of range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=30.0)
        >>> schedule = NonMonotonicDecay(optimizer, window=2)
        >>> for loss in (4.0, 3.0, 3.5, 3.9, 3.4):
        ...     schedule.step(loss)
        >>> optimizer.param_groups[0]["lr"]
        7.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str = "val/loss",
        factor: float = 0.25,
        window: int = 5,
        min_lr: float = 0.0,
    ) -> None:
        check_interval("(0, 1)", factor=factor)
        check_at_least(1, window=window)
        check_at_least(0, min_lr=min_lr)
        super().__init__(optimizer, factor=factor, min_lr=min_lr)
        self.monitor = monitor
        self.window = window
        self.recent: tuple[float, ...] = ()
        """The last ``window`` values, the oldest first."""
        self.best = math.inf

    def step(self, metrics: float | Tensor, epoch: int | None = None) -> None:  # type: ignore[override]
        """Note a value, and decay where it is above the best one of before the window."""
        value = float(metrics)
        self.last_epoch += 1
        if value > self.best:
            self._reduce_lr(self.last_epoch)
        values = (*self.recent, value)
        self.recent = values[-self.window :]
        self.best = min((self.best, *values[: -self.window]))
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
