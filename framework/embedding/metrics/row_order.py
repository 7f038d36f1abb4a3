"""Rows of an evaluation by the number of their sample, each once."""

from __future__ import annotations

import torch
from torch import Tensor


def first_of_each(index: Tensor) -> Tensor:
    """Return the rows of the first of each number, in the order of the numbers.

    Ranks may be given samples twice, so that they have equally many.

    Args:
        index: Numbers (N,) int64.

    Example:
        >>> first_of_each(torch.tensor([7, 3, 7, 5])).tolist()
        [1, 3, 0]
    """
    ordered, rows = index.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return rows[first]
