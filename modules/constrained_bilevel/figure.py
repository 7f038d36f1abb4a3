"""What was chosen for every training sample: its weight, or its penalty."""

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


@rc_context(STYLE)
def penalties(values: Tensor) -> Figure:
    """Draw how often each penalty occurs.

    Args:
        values: Logarithms (N,) of the penalties.
    """
    figure = titled("Penalties of the training samples", 3.6)
    axes = figure.add_subplot()
    axes.hist(values.tolist(), bins=40, color=COLORS[0], alpha=0.6)
    axes.set_xlabel("logarithm of the penalty")
    axes.set_ylabel("samples")
    return figure
