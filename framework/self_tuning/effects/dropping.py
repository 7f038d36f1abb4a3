"""Dropout whose rate differs from row to row."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.self_tuning.hyperparameter import HyperParameter

RATE = HyperParameter(init=0.05, low=0.0, high=1.0)
"""Range of the rate in the paper's code."""


def drop(x: Tensor, rate: Tensor, noise: Tensor) -> Tensor:
    """Return ``x`` with 0 where ``noise`` is below ``rate``, and divided by ``1 - rate``.

    Args:
        x: Tensor of any shape.
        rate: Rates in [0, 1] in a shape that multiplies ``x``; a rate of 1 drops everything.
        noise: Uniform numbers in [0, 1) in a shape that multiplies ``x``.

    Example:
        >>> rate, noise = torch.tensor([[0.5], [0.0]]), torch.tensor([[0.1, 0.6], [0.1, 0.6]])
        >>> drop(torch.ones(2, 2), rate, noise)
        tensor([[0., 2.],
                [1., 1.]])
    """
    # what is dropped may be infinite, and the share that is kept 0
    scale = 1 / (1 - rate).clamp(min=torch.finfo(rate.dtype).eps)
    return torch.where(noise >= rate, x, 0) * scale.to(x.dtype)
