"""Figure of the temperatures of classes over their frequency."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from framework.contrastive.class_temperatures import ClassTemperatures
from framework.figures.style import COLORS, STYLE, WIDTH, titled

MOST_NAMES = 20
"""Classes beyond which names would cover one another."""


@rc_context(STYLE)
def temperature_figure(
    found: ClassTemperatures, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw the temperature of every class over its number of training samples.

    Args:
        found: Temperatures of K classes.
        class_names: Names of the classes; default 0..K-1.
    """
    figure = titled("Temperature of a class over its frequency", 0.5 * WIDTH)
    axes = figure.add_subplot()
    present = (found.samples > 0).nonzero().flatten().tolist()
    count, mean = found.samples[present].tolist(), found.mean[present].tolist()
    low, high = found.low[present].tolist(), found.high[present].tolist()
    axes.vlines(count, low, high, color=COLORS[0], alpha=0.4, linewidth=2)
    axes.scatter(count, mean, color=COLORS[0], s=24, zorder=3)
    if len(present) <= MOST_NAMES:
        for k, x, y in zip(present, count, mean, strict=True):
            name = str(k) if class_names is None else class_names[k]
            axes.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    rank = float(found.correlation)
    correlation = "" if rank != rank else f"; rank correlation {rank:.2f}"
    title = f"mean, and 10th to 90th percentile, of {len(present)} classes{correlation}"
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("training samples of the class")
    axes.set_ylabel("temperature")
    return figure
