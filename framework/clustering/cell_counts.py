"""Counts of samples by cells of a table, among which no GPU is waited for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from framework.utilities.counts import count_values


def cell_counts(owner: str, values: dict[str, Tensor], sizes: Sequence[int]) -> Tensor:
    """Return how many samples are in every cell, and how many outside of the table, one at the end.

    On a CPU a number outside of its range is refused at once.

    Args:
        owner: Name of who counts, for the message.
        values: Names and numbers (B,) int64 of each axis of the table.
        sizes: Sizes of the axes.

    Raises:
        ValueError: A number outside of its range, on a CPU.

    Example:
        >>> import torch
        >>> cell_counts("table", {"rows": torch.tensor([0, 1, 1])}, sizes=[2])
        tensor([1, 2, 0])
    """
    first = next(iter(values.values()))
    cell, fits = torch.zeros_like(first), torch.ones_like(first, dtype=torch.bool)
    for (name, numbers), size in zip(values.items(), sizes, strict=True):
        inside = (numbers >= 0) & (numbers < size)
        if numbers.device.type == "cpu" and not inside.all():
            raise ValueError(
                f"{owner}: {name} must be in 0..{size - 1}, got "
                f"{int(numbers.min())}..{int(numbers.max())}."
            )
        cell, fits = cell * size + numbers, inside & fits
    cells = math.prod(sizes)
    return count_values(torch.where(fits, cell, cells), cells + 1)


def counted_cells(owner: str, counts: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the table of sums of ``cell_counts``, in the shape ``sizes``.

    Raises:
        ValueError: A sample was outside of it.
    """
    outside = int(counts[-1])
    if outside:
        ranges = " and ".join(f"0..{size - 1}" for size in sizes)
        raise ValueError(f"{owner}: {outside} samples have numbers outside {ranges}.")
    return counts[:-1].view(*sizes)
