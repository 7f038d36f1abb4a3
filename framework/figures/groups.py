"""Colors and names of groups of points, such as classes or clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from framework.figures.style import COLORS

MOST_NAMED = 20
"""More groups than these are not named, as no eye keeps them apart."""


def group_colors(count: int) -> list[Any]:
    """Return ``count`` colors or more, which all differ for up to 256 groups."""
    if count <= len(COLORS):
        return list(COLORS)
    if count <= MOST_NAMED:
        return list(colormaps["tab10" if count <= 10 else "tab20"](range(count)))
    return list(colormaps["hsv"](np.linspace(0, 1, count, endpoint=False)))


def name_groups(
    axes: Axes, points: np.ndarray, group: np.ndarray, names: Sequence[str], colors: Sequence[Any]
) -> None:
    """Write the name of every group beside its middle.

    Args:
        axes: Axes to write on.
        points: (n, 2).
        group: (n,) group of each point; negative ones have no name.
        names: Names by group.
        colors: Colors by group.
    """
    halo = [withStroke(linewidth=2.0, foreground="white")]
    for k in np.unique(group[group >= 0]):
        axes.annotate(
            names[k],
            np.median(points[group == k], axis=0),
            xytext=(5, 5),
            textcoords="offset points",
            color=colors[k],
            weight="bold",
            ha="center",
            va="center",
            path_effects=halo,
        )
