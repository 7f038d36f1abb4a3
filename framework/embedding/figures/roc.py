"""Figure of ROC curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, PercentFormatter

from framework.embedding.metrics.roc import RocCurve, far_name
from framework.figures.style import COLORS, STYLE, WIDTH, titled

NAMED_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LINES = ("-", "--", ":")


@rc_context(STYLE)
def roc_curves(
    curves: Mapping[str, RocCurve],
    title: str = "Accepted pairs of one class over false acceptances",
) -> Figure:
    """Draw true acceptance rates over false ones on a logarithmic axis, a line for each curve.

    Each begins at the lowest rate that it can measure. The dotted line is what chance would accept,
    and the legend gives the values at the lowest decade that all curves can measure.

    Args:
        curves: ROC curve by the name of its line.
        title: Heading.

    Example:
        >>> import torch
        >>> from framework.embedding.metrics.roc import roc_curve
        >>> scores, same = torch.rand(100), torch.arange(100) < 50
        >>> len(roc_curves({"faces": roc_curve(scores, same)}).axes)
        1
    """
    figure = titled(title, 4.2, 0.75 * WIDTH)
    axes = figure.add_subplot()
    points = {name: (c.far.cpu().numpy(), c.tar.cpu().numpy()) for name, c in curves.items()}
    lowest = {name: _lowest(far) for name, (far, _) in points.items()}
    # a decade at least, where nothing but 0 and 1 can be measured
    left = min(0.1, 10 ** np.floor(np.log10(min(lowest.values(), default=0.1))))
    told = next((rate for rate in NAMED_RATES if rate >= max(lowest.values(), default=1)), None)
    for number, (name, (far, tar)) in enumerate(points.items()):
        label = name
        if told is not None:
            label = f"{name}: {tar[far <= told].max(initial=0):.1%}"
        # of the points without a false acceptance the last one, where a rate can be measured first
        start = max(0, int((far > 0).argmax()) - 1)
        axes.plot(
            far[start:].clip(min=lowest[name]),
            tar[start:],
            drawstyle="steps-post",
            color=COLORS[number % len(COLORS)],
            linestyle=LINES[number // len(COLORS) % len(LINES)],
            label=label,
        )
    chance = np.logspace(np.log10(left), 0, 100)
    axes.plot(chance, chance, color="0.6", linestyle=":", linewidth=1, label="chance")
    axes.set(xscale="log", xlim=(left, 1), ylim=(0, 1.02))
    axes.set(xlabel="false acceptance rate", ylabel="true acceptance rate")
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_major_formatter(LogFormatterSciNotation())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    if told is not None:
        axes.axvline(told, color="0.75", linewidth=1, zorder=0)
        axes.set_title(f"in the legend: at a false acceptance rate of {far_name(told)}", loc="left")
    axes.legend(loc="best")
    return figure


def _lowest(far: np.ndarray) -> float:
    """Return the lowest rate above 0 of a curve."""
    return float(far[far > 0].min(initial=1.0))
