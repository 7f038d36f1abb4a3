"""Densities in the plane, as a figure shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class PlaneView(NamedTuple):
    """Densities on a grid of the plane.

    Args:
        extent: Left, right, lower and upper end.
        densities: Densities (G, G) by title; the first coordinate is that of the rows.
        draws: Draws of the noise, (n, 2).
    """

    extent: tuple[float, float, float, float]
    densities: Mapping[str, Tensor]
    draws: Tensor
