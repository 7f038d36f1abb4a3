"""Predictions over true values."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.style import COLORS, STYLE, WIDTH, titled


@rc_context(STYLE)
def predicted_against_true(predicted: Tensor, true: Tensor, name: str = "target") -> Figure:
    """Draw predictions over true values; on the line they are right.

    Args:
        predicted: (N,), in the unit of the data.
        true: (N,).
        name: Name of what is predicted.
    """
    figure = titled(f"Predictions of {name.replace('_', ' ')}", 0.7 * WIDTH, 0.75 * WIDTH)
    axes = figure.add_subplot()
    axes.set_title(f"{len(true):,} samples; on the line a prediction is right", fontsize=9)
    x, y = true.double().numpy(), predicted.double().numpy()
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    # faint where points are many, so that they show how many lie on top of one another
    alpha = 0.8 if len(x) <= 200 else 0.35
    axes.scatter(x, y, s=14, color=COLORS[0], alpha=alpha, linewidths=0)
    if len(x):
        axes.axline((x.min(), x.min()), slope=1, color=COLORS[1], linewidth=1.2)
    axes.set_xlabel("true value")
    axes.set_ylabel("predicted value")
    return figure
