"""What a classifier of points of the plane decides in each place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.groups import MOST_NAMED, group_colors
from framework.figures.style import STYLE, titled

UNKNOWN = "0.5"
"""Gray of points without a class."""
SIDE = 120
"""Places along each side of the plane that are classified."""


@rc_context(STYLE)
def decision_regions(
    classify: Callable[[Tensor], Tensor],
    points: Tensor,
    label: Tensor,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw points by their class over the regions of a classifier, with the boundaries between.

    A region is paler where its class is less probable. Points without a class are gray and
    smaller, under the others.

    Args:
        classify: Function from points (M, 2) to probabilities (M, K).
        points: (N, 2), finite, N >= 1.
        label: Class of each point, (N,) int64; negative where it is not known.
        class_names: Names of the K classes; default 0, 1, ...

    Raises:
        ValueError: ``points`` has another shape.

    Example:
        >>> import torch
        >>> figure = decision_regions(
        ...     lambda x: torch.stack([x[:, 0], -x[:, 0]], 1).softmax(1),
        ...     torch.tensor([[1.0, 0.0], [-1.0, 0.5]]),
        ...     torch.tensor([0, -1]),
        ... )
        >>> figure.axes[0].get_title(loc="left")
        '1 point with a class and 1 without'
    """
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"points must be (N, 2) to be drawn, got {tuple(points.shape)}.")
    shown, group = points.detach().cpu().double().numpy(), label.cpu().numpy()
    low, high = shown.min(0), shown.max(0)
    margin = 0.08 * (high - low) + 1e-3
    x, y = (np.linspace(*ends, SIDE) for ends in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    with torch.no_grad():
        probability = classify(torch.from_numpy(grid).to(points)).cpu().double().numpy()
    count = probability.shape[1]
    colors = np.array([to_rgb(color) for color in group_colors(count)])
    decided = probability.argmax(1)
    strength = 0.45 * probability.max(1, keepdims=True)
    paint = 1 - strength * (1 - colors[decided])
    figure = titled("Decision regions", 4.6, 5.4)
    axes = figure.add_subplot()
    axes.grid(False)
    box = (x[0], x[-1], y[0], y[-1])
    axes.imshow(paint.reshape(SIDE, SIDE, 3), extent=box, origin="lower", aspect="auto")
    for group_number in range(count):
        inside = (decided == group_number).reshape(SIDE, SIDE)
        if inside.any() and not inside.all():
            axes.contour(x, y, inside, [0.5], colors="0.2", linewidths=0.8)
    unknown = group < 0
    hidden = shown[unknown]
    axes.scatter(hidden[:, 0], hidden[:, 1], s=6, c=UNKNOWN, linewidths=0)
    names = [str(k) if class_names is None else class_names[k] for k in range(count)]
    for number, name in enumerate(names):
        own = shown[group == number]
        style: Any = {
            "c": [colors[number]],
            "label": name,
            "edgecolors": "white",
            "linewidths": 0.5,
        }
        axes.scatter(own[:, 0], own[:, 1], s=24, **style)
    axes.set(xlim=box[:2], ylim=box[2:], xlabel="first input", ylabel="second input")
    known = int((~unknown).sum())
    said = f"{known:,} point{'' if known == 1 else 's'} with a class"
    if unknown.any():
        said += f" and {int(unknown.sum()):,} without"
    axes.set_title(said, loc="left", fontsize=9)
    if count <= MOST_NAMED:
        axes.legend(loc="best", fontsize=8)
    return figure
