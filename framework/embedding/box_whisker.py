"""Tukey's rule of the box and the whiskers, for outliers among numbers on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least

FEWEST = 4
"""Numbers below which quartiles say nothing, so that none is an outlier."""


def box_whisker_bounds(
    values: Tensor, whisker: float = 1.5, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest number that is no outlier.

    These are ``Q1 - whisker * (Q3 - Q1)`` and ``Q3 + whisker * (Q3 - Q1)``, where the quartiles of
    M numbers in ascending order are those at the places ``M // 4`` and ``3 * M // 4``, without
    interpolation. Fewer than 4 numbers have no bounds. No GPU is waited for.

    Args:
        values: Numbers in any shape.
        whisker: Length of a whisker as a multiple of the distance of the quartiles, at least 0.
        valid: Which numbers count, bool in the shape of ``values``; default all.

    Returns:
        Two scalars, constants for the gradient; both are inclusive.

    Raises:
        ValueError: ``whisker`` is negative.

    Example:
        >>> import torch
        >>> low, high = box_whisker_bounds(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 99.0]))
        >>> (low.item(), high.item())
        (-3.5, 8.5)
    """
    check_at_least(0, whisker=whisker)
    values = values.detach()
    infinite = values.new_full((), torch.inf)
    if values.numel() < FEWEST:
        return -infinite, infinite
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    count = valid.sum()
    ascending = torch.where(valid, values, infinite).flatten().sort().values
    places = torch.stack([count // 4, 3 * count // 4]).clamp(max=values.numel() - 1)
    first, third = ascending[places]
    reach = whisker * (third - first)
    enough = count >= FEWEST
    return (
        torch.where(enough, first - reach, -infinite),
        torch.where(enough, third + reach, infinite),
    )
