"""What figures of images with detections and true objects share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.patheffects import AbstractPathEffect, withStroke
from torch import Tensor

from framework.figures.style import WIDTH, titled

SHOWN_SCORE = 0.3
"""Detections below this score are left out of pictures."""
LINE = 1.0
"""Width of outlines in points, which leaves small objects to be seen."""
ON_WHITE: list[AbstractPathEffect] = [withStroke(linewidth=LINE + 1, foreground="black")]
"""Border that makes a white line seen on white objects and on white paper."""


def image_panels(images: Tensor, title: str) -> Figure:
    """Return a figure of images in columns, one axes for each.

    Args:
        images: (P, 3, H, W) uint8.
        title: Heading.
    """
    number = len(images)
    columns = min(3, max(1, number))
    lines = max(1, math.ceil(number / columns))
    height, width = images.shape[-2:]
    figure = titled(title, 1.0 + lines * WIDTH / columns * height / width)
    for place in range(number):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.imshow(images[place].permute(1, 2, 0).numpy())
        axes.set_axis_off()
    return figure


def outline(axes: Axes, corners: Tensor, color: str, style: str) -> Polygon:
    """Draw a polygon of corners (n, 2) in pixels, whose edges are whole numbers."""
    patch = Polygon(
        # imshow has the center of a pixel there
        corners.float().numpy() - 0.5,
        fill=False,
        edgecolor=color,
        linewidth=LINE,
        linestyle=style,
    )
    axes.add_patch(patch)
    return patch


def write_score(axes: Axes, corner: Tensor, score: Tensor, color: str) -> None:
    """Write a score above a corner (2,) in pixels."""
    x, y = corner.tolist()
    axes.text(
        x,
        y,
        f"{float(score):.2f}",
        fontsize=6,
        color="white",
        va="bottom",
        clip_on=True,
        bbox={"facecolor": color, "pad": 0.6, "linewidth": 0},
    )


def true_line(label: str) -> Line2D:
    """Return what stands for true objects in a legend."""
    line = Line2D([], [], color="white", label=label)
    line.set(linewidth=LINE, path_effects=ON_WHITE)
    return line


def explain(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend below the panels."""
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
