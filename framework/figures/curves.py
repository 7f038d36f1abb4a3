"""Learning curves of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from framework.figures.panels import RATE, Curve, curves_of, panels, spans_decades
from framework.figures.style import COLORS, STYLE, titled

MOST_PANELS = 60
"""Panels of a figure; Matplotlib takes 6 s for as many, and minutes for 200."""


def learning_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each logged quantity over the steps; see ``curves_figure``.

    Args:
        rows: Rows of ``metrics.csv``: ``step`` and values, as numbers or as text, by column.
    """
    return curves_figure(curves_of(rows))


@rc_context(STYLE)
def curves_figure(curves: Mapping[str, Curve]) -> Figure:
    """Draw each logged quantity over the steps: one panel per loss term or metric.

    Training's steps and epoch means, validation and test share a panel where they share a name;
    the learning rates share the last one. Of more than 60 panels the first ones are drawn.

    Args:
        curves: Curves by the name under which they were logged. Values that are not finite are left
            out.
    """
    found = panels(curves)
    shown = dict(islice(found.items(), MOST_PANELS))
    columns = min(3, max(1, len(shown)))
    lines = math.ceil(len(shown) / columns)
    steps = max((int(curve.steps.max()) for curve in curves.values()), default=0)
    part = f", {len(shown)} of {len(found):,} metrics" if len(found) > len(shown) else ""
    figure = titled(f"Learning curves over {steps:,} steps{part}", 0.9 + 2.1 * lines)
    legend: dict[str, Any] = {}
    for place, (name, series) in enumerate(shown.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.set_title(name.replace("_", " "), loc="left")
        others = 0
        for label, curve in series.items():
            drawn = _draw(axes, label, curve, others)
            others += label not in _ROLES
            if label != name:
                legend.setdefault(label, drawn)
        _scale(axes, name, series.values())
        axes.set_xlim(0, steps * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if place > len(shown) - columns:
            axes.set_xlabel("optimizer step")
    if legend:
        columns = min(5, len(legend))
        figure.legend(legend.values(), legend, loc="outside lower center", ncols=columns)
    return figure


_ROLES: dict[str, dict[str, Any]] = {
    "train, each step": {"color": COLORS[0], "alpha": 0.35, "linewidth": 1.0},
    "train, epoch mean": {"color": COLORS[0]},
    "validation": {"color": COLORS[1]},
    "test": {"color": COLORS[2], "linestyle": "none"},
}


def _draw(axes: Axes, label: str, curve: Curve, others: int) -> Any:
    # learning rates and reference values take the colors that have no role yet
    other = {"color": (*COLORS[:2:-1], *COLORS[:3])[others % len(COLORS)]}
    style: dict[str, Any] = dict(_ROLES.get(label, other))
    # few points are seen only as markers
    if label != "train, each step" and len(curve.steps) <= 30:
        style |= {"marker": "o", "markersize": 3.5}
    (line,) = axes.plot(*curve, **style)
    return line


def _scale(axes: Axes, name: str, series: Iterable[Curve]) -> None:
    values = np.concatenate([curve.values for curve in series])
    low, high = float(values.min()), float(values.max())
    if name != RATE and spans_decades(low, high):
        axes.set_yscale("log")
    elif low >= 0 and high > 0 and low < 0.5 * high:
        axes.set_ylim(bottom=0)
    if high > low:
        return
    # a constant would otherwise get ticks like 1e-9 + 0.001
    axes.set_ylim(0, 2 * high) if high > 0 else axes.set_ylim(low - 1, high + 1)
