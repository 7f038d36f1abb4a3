"""Figure of images with the images that are nearest to them."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from framework.embedding.metrics.embedding_evaluation import QueryNeighbors
from framework.figures.style import COLORS, STYLE, titled

RIGHT, WRONG, UNKNOWN = COLORS[2], COLORS[1], "0.6"
SIDE = 0.8
"""Inches of an image."""
GAP, QUERY_GAP = 0.14, 0.3
"""Space between images, and after the query, in widths of an image."""


@rc_context(STYLE)
def neighbor_rows(
    query: Tensor, neighbors: Tensor, found: QueryNeighbors, title: str = "Nearest images"
) -> Figure:
    """Draw a row for each query: its image, and the nearest images with their cosines.

    The frame of an image says whether it is of the query's class, where classes are known.

    Args:
        query: Images of the queries, (Q, C, H, W), uint8 or in [0, 1], C of 1 or 3.
        neighbors: Images of their neighbors, (Q, k, C, H, W).
        found: What is known of them.
        title: Heading.

    Example:
        >>> import torch
        >>> zeros = torch.zeros(1, 2)
        >>> found = QueryNeighbors(zeros[:, 0].long(), zeros.long(), zeros == 0, zeros)
        >>> images = torch.rand(1, 2, 1, 8, 8)
        >>> len(neighbor_rows(images[:, 0], images, found).axes)
        1
    """
    rows, columns = found.found.shape
    height, width = query.shape[-2:]
    step_y = height / width + GAP + 0.12
    across = 1 + QUERY_GAP + columns * (1 + GAP)
    figure = titled(title, 1.0 + SIDE * step_y * rows, max(4.0, SIDE * across + 0.4))
    axes = figure.add_subplot()
    similarity = found.similarity.cpu()
    same = None if found.same is None else found.same.cpu()
    for row in range(rows):
        top = row * step_y
        _show(axes, query[row], (0.0, top))
        for column in range(columns):
            left = 1 + QUERY_GAP + column * (1 + GAP)
            _show(axes, neighbors[row, column], (left, top))
            color = UNKNOWN
            if same is not None:
                color = RIGHT if bool(same[row, column]) else WRONG
            frame = Rectangle((left, top), 1, height / width, fill=False, edgecolor=color)
            frame.set_linewidth(2.5)
            axes.add_patch(frame)
            axes.text(
                left + 0.5,
                top + height / width + 0.04,
                f"{float(similarity[row, column]):.2f}",
                ha="center",
                va="top",
                fontsize=7,
                color=color,
            )
    axes.set(xlim=(-0.05, across), ylim=(rows * step_y, -0.05), aspect="equal")
    axes.set_axis_off()
    said = f"query, then its {columns} nearest"
    if same is None:
        axes.set_title(said, loc="left")
        return figure
    right = float(same.float().mean()) if same.numel() else 0.0
    axes.set_title(f"{said}; {right:.0%} are of its class", loc="left")
    handles = [
        Line2D([], [], color=RIGHT, linewidth=2.5, label="of the query's class"),
        Line2D([], [], color=WRONG, linewidth=2.5, label="of another class"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _show(axes: Axes, image: Tensor, corner: tuple[float, float]) -> None:
    """Draw an image (C, H, W) as wide as 1."""
    pixels = image.detach().cpu().float() / (255 if image.dtype == torch.uint8 else 1)
    shown: np.ndarray = pixels.clamp(0, 1).permute(1, 2, 0).numpy()
    if shown.shape[2] == 1:
        shown = shown.repeat(3, axis=2)
    left, top = corner
    bottom = top + image.shape[1] / image.shape[2]
    axes.imshow(shown, extent=(left, left + 1, bottom, top), interpolation="antialiased")
