"""Weights of training samples, those with right labels beside those with wrong ones."""

from __future__ import annotations

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.style import COLORS, STYLE, titled


@rc_context(STYLE)
def sample_weights(weights: Tensor, right: Tensor) -> Figure:
    """Draw how often each weight occurs.

    Args:
        weights: Weights (N,) in [0, 1].
        right: Whether the label of a sample is right, (N,) bool.
    """
    figure = titled("Weights of the training samples", 3.6)
    axes = figure.add_subplot()
    bins = [k / 40 for k in range(41)]
    kinds = ("right labels", right, COLORS[0]), ("wrong labels", ~right, COLORS[1])
    for name, rows, color in kinds:
        axes.hist(
            weights[rows].tolist(),
            bins=bins,
            color=color,
            alpha=0.6,
            label=f"{name} ({int(rows.sum()):,})",
        )
    axes.set_xlim(0, 1)
    axes.set_xlabel("weight")
    axes.set_ylabel("samples")
    axes.legend()
    return figure
