"""The normalizer of an energy model, and its density where there is a picture of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from framework.energy.noise import Noise
from framework.energy.normalizer import (
    grid,
    in_parts,
    log_normalizer_by_noise,
    log_normalizer_on_grid,
)
from framework.energy.plane_view import PlaneView
from framework.utilities.randomness import stable_seed

DRAWN = 400
"""Draws of the noise in the picture."""


class Normalization(NamedTuple):
    """The normalizer of a density.

    Args:
        log_z: Logarithm of the normalizer, float64.
        is_exact: Whether it is a sum over a grid, and no mean of draws.
        plane: Densities of rows of two numbers.
    """

    log_z: Tensor
    is_exact: bool
    plane: PlaneView | None


def normalization(
    log_ratio: Callable[[Tensor], Tensor],
    noise: Noise,
    size: int,
    grid_size: int,
    draws: int,
    true_log_density: Callable[[Tensor], Tensor] | None = None,
) -> Normalization:
    """Return the normalizer, the same on every rank.

    Args:
        log_ratio: Function from rows (N, D) to log p0 - log q, (N,).
        noise: Noise q.
        size: Number D of values in a row.
        grid_size: Cells along each side of the grid, for one or two values.
        draws: Draws of the noise, for more.
        true_log_density: Function from rows to the logarithm of the true density, if it is known.
    """
    low, high = noise.box()
    generator = torch.Generator(low.device).manual_seed(stable_seed("normalizer"))
    if size > 2:
        return Normalization(
            log_normalizer_by_noise(log_ratio, noise, draws, generator), False, None
        )
    points, log_cell = grid(low, high, grid_size)
    own = in_parts(noise.log_prob, points)
    learned = (in_parts(log_ratio, points) + own).double()
    log_z = log_normalizer_on_grid(learned, log_cell)
    if size == 1:
        return Normalization(log_z, True, None)
    shown = {} if true_log_density is None else {"true": true_log_density(points).exp()}
    shown |= {"learned": (learned - log_z).exp(), "noise, with draws": own.exp()}
    (left, lower), (right, upper) = low.tolist(), high.tolist()
    return Normalization(
        log_z,
        True,
        PlaneView(
            (left, right, lower, upper),
            {name: density.view(grid_size, grid_size) for name, density in shown.items()},
            noise.sample(DRAWN, generator),
        ),
    )
