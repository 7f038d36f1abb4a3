"""Embeddings as points of a plane, colored by class and by values of their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.groups import MOST_NAMED, group_colors, name_groups
from framework.figures.style import STYLE, WIDTH, titled

MANY = 500
"""More points than these are drawn smaller."""
UNKNOWN = "0.75"
"""Gray of points without a class or a finite value."""


def plane_points(embedding: Tensor) -> tuple[np.ndarray, str]:
    """Return the first two principal components (N, 2) of embeddings, and what they show of them.

    Args:
        embedding: (N, D), finite, of 2 rows or more.

    Raises:
        ValueError: Fewer than 2 rows or 1 column.

    Example:
        >>> import torch
        >>> points, said = plane_points(torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 5.0]]))
        >>> points.round(4).tolist(), said
        ([[-1.0, 0.0], [1.0, 0.0]], 'first two principal components, 100% of the variance')
    """
    if embedding.ndim != 2 or len(embedding) < 2 or not embedding.shape[1]:
        raise ValueError(
            f"embedding must be (N, D) of 2 rows or more to be drawn, got {tuple(embedding.shape)}."
        )
    rows = embedding.detach().cpu().double().numpy()
    centered = rows - rows.mean(0)
    left, scale, right = np.linalg.svd(centered, full_matrices=False)
    # the sign of a component is arbitrary: its largest weight points upward
    sign = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    points = np.zeros((len(rows), 2))
    points[:, : min(2, len(scale))] = (left * scale * sign)[:, :2]
    total = float(np.square(scale).sum())
    share = float(np.square(scale[:2]).sum()) / total if total else 1.0
    return points, f"first two principal components, {share:.0%} of the variance"


@rc_context(STYLE)
def embedding_map(
    embedding: Tensor,
    label: Tensor | None = None,
    values: Mapping[str, Tensor] | None = None,
    class_names: Sequence[str] | None = None,
    title: str = "Embeddings",
) -> Figure:
    """Draw embeddings as points, in one panel by class and in one for each value of the samples.

    Points are the first two principal components. Rows that are not finite are left out; points
    without a class or a finite value are gray.

    Args:
        embedding: (N, D).
        label: Class of each row, (N,) int64; negative where it is not known.
        values: Numbers (N,) by name, such as the temperatures of samples.
        class_names: Names of the classes; default 0, 1, ...
        title: Heading.

    Raises:
        ValueError: Fewer than 2 finite rows.

    Example:
        >>> import torch
        >>> label = torch.tensor([0, 0, 1])
        >>> figure = embedding_map(torch.rand(3, 4), label, {"temperature": torch.rand(3)})
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['by class', 'by temperature']
    """
    kept = embedding.isfinite().all(1)
    points, said = plane_points(embedding[kept])
    colorings: dict[str, Tensor] = {}
    if label is not None:
        colorings["class"] = label[kept.to(label.device)]
    for name, value in (values or {}).items():
        colorings[name] = value[kept.to(value.device)]
    panels = max(1, len(colorings))
    size = 12.0 if len(points) <= MANY else 6.0
    figure = titled(title, 0.95 * WIDTH / panels + 0.9, WIDTH)
    middle = (points.max(0) + points.min(0)) / 2
    reach = 0.54 * float(np.ptp(points, axis=0).max()) or 1.0
    for place, name in enumerate(colorings or [""]):
        axes = figure.add_subplot(1, panels, place + 1)
        axes.set(xlim=middle[0] + [-reach, reach], ylim=middle[1] + [-reach, reach])
        axes.set_aspect("equal")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        if not colorings:
            _scatter(axes, points, UNKNOWN, size)
            continue
        axes.set_title(f"by {name}", loc="left", fontsize=9)
        if label is not None and place == 0:
            _by_class(axes, points, colorings[name], class_names, size)
        else:
            _by_value(axes, points, colorings[name], name, size)
    figure.supxlabel(f"{len(points):,} samples; {said}", fontsize=9, color="0.35")
    return figure


def _scatter(axes: Axes, points: np.ndarray, color: Any, size: float) -> PathCollection:
    return axes.scatter(points[:, 0], points[:, 1], s=size, c=color, linewidths=0, alpha=0.75)


def _by_class(
    axes: Axes,
    points: np.ndarray,
    label: Tensor,
    class_names: Sequence[str] | None,
    size: float,
) -> None:
    group = label.cpu().numpy()
    count = 1 + int(group.max(initial=-1))
    colors = group_colors(count)
    _scatter(axes, points, [colors[k] if k >= 0 else UNKNOWN for k in group], size)
    if count <= MOST_NAMED:
        names = [str(k) if class_names is None else class_names[k] for k in range(count)]
        name_groups(axes, points, group, names, colors)


def _by_value(axes: Axes, points: np.ndarray, value: Tensor, name: str, size: float) -> None:
    number = value.detach().cpu().double().numpy()
    known = np.isfinite(number)
    if not known.all():
        _scatter(axes, points[~known], UNKNOWN, size)
    if known.any():
        shown = _scatter(axes, points[known], number[known], size)
        bar = axes.figure.colorbar(shown, ax=axes, location="bottom", shrink=0.8, pad=0.02)
        bar.set_label(name)
