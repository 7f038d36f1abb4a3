"""The normalizer of a density known up to a factor: on a grid of the plane, or by its noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from framework.energy.noise import Noise
from framework.utilities.checks import check_at_least

ROWS = 16_384
"""Points that are evaluated at once."""


class Grid(NamedTuple):
    """The middles of equal cells that fill a box.

    Args:
        points: Middles, (G^D, D), the last coordinate running fastest.
        log_cell: Logarithm of the volume of a cell.
    """

    points: Tensor
    log_cell: float


def grid(low: Tensor, high: Tensor, size: int) -> Grid:
    """Return the middles of the cells of a box.

    Args:
        low: Lower corner (D,).
        high: Upper corner (D,).
        size: Number G of cells along each side.

    Example:
        >>> found = grid(torch.tensor([0.0]), torch.tensor([4.0]), 4)
        >>> found.points.flatten(), found.log_cell
        (tensor([0.5000, 1.5000, 2.5000, 3.5000]), 0.0)
    """
    check_at_least(1, size=size)
    steps = (high - low) / size
    places = torch.arange(size, dtype=low.dtype, device=low.device) + 0.5
    axes = [start + places * step for start, step in zip(low, steps, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    return Grid(points, float(steps.double().log().sum()))


def in_parts(function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Return what a function gives for rows, of which it sees some thousands at once."""
    return torch.cat([function(part) for part in points.split(ROWS)])


def log_normalizer_on_grid(log_density: Tensor, log_cell: float) -> Tensor:
    """Return log Z, the sum over cells, of a density that is nothing outside of them.

    Args:
        log_density: Logarithm of the density up to a factor at each middle, (G^D,).
        log_cell: Logarithm of the volume of a cell.
    """
    return log_density.double().logsumexp(0) + log_cell


def log_normalizer_by_noise(
    log_ratio: Callable[[Tensor], Tensor],
    noise: Noise,
    draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return an estimate of log Z, which is too low on average: the mean of p0/q under the noise.

    Args:
        log_ratio: Function from rows (N, D) to log p0 - log q, (N,).
        noise: Noise q.
        draws: Number of draws.
        generator: Generator on the noise's device.
    """
    check_at_least(1, draws=draws)
    values = in_parts(log_ratio, noise.sample(draws, generator)).double()
    return values.logsumexp(0) - math.log(draws)
