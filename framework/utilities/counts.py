"""Counts of whole numbers that no GPU is waited for."""

from __future__ import annotations

import torch
from torch import Tensor


def count_values(values: Tensor, number: int, among: Tensor | None = None) -> Tensor:
    """Return how often each of 0, ..., ``number - 1`` occurs, (number,) int64.

    ``torch.bincount`` looks for the smallest and the largest value first, and the host waits for
    a GPU twice.

    Args:
        values: (n,) int64 in 0..number-1.
        number: Number of values that are told apart.
        among: (n,) bool, which entries count; all by default.

    Example:
        >>> import torch
        >>> count_values(torch.tensor([2, 0, 2]), number=4)
        tensor([1, 0, 2, 0])
    """
    ones = torch.ones_like(values) if among is None else among.to(values.dtype)
    return values.new_zeros(number).index_add_(0, values, ones)
