"""Averages of numbers that are known by their logarithm, over ranks and over steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_max, all_reduce_sum
from framework.utilities.checks import check_interval


def global_log_mean_exp(values: Tensor) -> Tensor:
    r"""Return :math:`\log \frac1B \sum_i \exp(x_i)` over the rows of all ranks, without gradient.

    Collective: all ranks must call it, one without rows with an empty tensor. Minus infinity where
    no rank has rows.

    Args:
        values: Numbers x of this rank, (B_r, ...).

    Returns:
        (...).

    Example:
        >>> import torch
        >>> global_log_mean_exp(torch.tensor([1000.0, 1000.0]))
        tensor(1000.)
    """
    values = values.detach()
    none = values.new_full(values.shape[1:], -math.inf)
    own = values.amax(0) if len(values) else none
    largest = all_reduce_max(own)
    # all may be minus infinity, of which none is subtracted
    shift = torch.where(largest.isinf(), 0.0, largest)
    total = (values - shift).exp().sum(0)
    count = torch.full_like(total, len(values))
    total, count = all_reduce_sum(torch.stack([total, count])).unbind()
    return (total / count.clamp(min=1)).log() + shift


def log_moving_average(old: Tensor, new: Tensor, rate: float | Tensor) -> Tensor:
    r"""Return :math:`\log((1 - \gamma) e^{old} + \gamma e^{new})`, elementwise.

    Exact for numbers whose exponential overflows. Where ``old`` is NaN there is no average yet,
    and the result is ``new``.

    Args:
        old: Logarithms of the averages so far; NaN for none.
        new: Logarithms of the new values, of the same shape.
        rate: Share gamma of the new values, in [0, 1].

    Raises:
        ValueError: ``rate`` is a number outside [0, 1].

    Example:
        >>> import torch
        >>> log_moving_average(torch.tensor([900.0, float("nan")]), torch.tensor([900.0, 2.0]), 0.1)
        tensor([900.,   2.])
    """
    if isinstance(rate, Tensor):
        share = rate.to(new)
    else:
        check_interval("[0, 1]", rate=rate)
        share = new.new_full((), rate)
    mean = torch.logaddexp(torch.log1p(-share) + old, share.log() + new)
    return torch.where(old.isnan(), new, mean)
