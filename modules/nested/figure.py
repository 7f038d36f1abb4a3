"""Accuracy against the number of channels."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.style import COLORS, STYLE, titled


@rc_context(STYLE)
def prefix_accuracy_curves(curves: Mapping[str, Tensor], chosen: int) -> Figure:
    """Draw the accuracy of every prefix of the features, and mark the one in use.

    Args:
        curves: Accuracies (H,) of the first 1, ..., H channels, by the name of the network.
        chosen: Number of channels in use, 1..H.
    """
    figure = titled("Accuracy of every prefix of the features", 4.2)
    axes = figure.add_subplot()
    first = next(iter(curves.values()))
    at_chosen = float(first[chosen - 1])
    axes.set_title(
        f"with the first {chosen:,} of {len(first):,} channels: {at_chosen:.1%}",
        loc="left",
        fontsize=9,
        color="0.35",
    )
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        axes.plot(range(1, len(curve) + 1), curve.tolist(), label=name, color=color)
    axes.axvline(chosen, color="0.6", linewidth=1.0, linestyle="--")
    axes.plot([chosen], [at_chosen], marker="o", color=COLORS[0])
    axes.set_xlim(0, len(first) + 1)
    axes.set_xlabel("channels used")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter("{x:.0%}")
    if len(curves) > 1:
        axes.legend()
    return figure
