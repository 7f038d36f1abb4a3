"""Learning curves of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from framework.figures.style import COLORS, STYLE, titled

Points = tuple[list[float], list[float]]


@rc_context(STYLE)
def learning_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each logged quantity over the steps: one panel per loss term or metric.

    Training's steps and epoch means, validation and test share a panel where they share a name;
    the learning rates share the last one.

    Args:
        rows: Rows of ``metrics.csv``: ``step`` and values, as numbers or as text, by column. Values
            that are not finite are left out.
    """
    panels = _panels(rows)
    columns = min(3, max(1, len(panels)))
    lines = math.ceil(len(panels) / columns)
    steps = 1 + max((int(row["step"]) for row in rows), default=-1)
    figure = titled(f"Learning curves over {steps:,} steps", 0.9 + 2.1 * lines)
    legend: dict[str, Any] = {}
    order = [*_ROLES, *(label for series in panels.values() for label in series)]
    for place, (name, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.set_title(name.replace("_", " "), loc="left")
        others = 0
        for label, points in sorted(series.items(), key=lambda item: order.index(item[0])):
            drawn = _draw(axes, label, points, others)
            others += label not in _ROLES
            if label != name:
                legend.setdefault(label, drawn)
        _scale(axes, name, series.values())
        axes.set_xlim(0, steps * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if place > len(panels) - columns:
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


def _panels(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """Return the points of every series, by panel and label; the learning rate comes last."""
    panels: dict[str, dict[str, Points]] = {}
    rates: dict[str, Points] = {}
    for column in dict.fromkeys(name for row in rows for name in row):
        stage, _, name = column.partition("/")
        points = _points(rows, column)
        if column.startswith("lr-"):
            # groups that differ in weight decay alone have one learning rate
            if points[0] and points not in rates.values():
                rates[column.removeprefix("lr-")] = points
            continue
        # a combiner of gradients has figures of its own
        if column in ("epoch", "step") or name.startswith("preference/") or not points[0]:
            continue
        role = {"train": "train, each step", "val": "validation", "test": "test"}.get(stage)
        if role is None:
            name = role = column
        elif "/" in name:
            # a reference value of a metric, such as val/accuracy/baseline
            name, _, role = name.replace("_", " ").partition("/")
            name = name.replace(" ", "_")
        if stage == "train" and name.endswith("_epoch"):
            name, role = name.removesuffix("_epoch"), "train, epoch mean"
        panels.setdefault(name, {})[role] = points
    terms = [name for name in panels if name != "loss"]
    for name in terms:
        # a single term is the loss
        if panels[name] == panels.get("loss"):
            del panels[name]
    if len(rates) == 1:
        rates = {"learning rate": next(iter(rates.values()))}
    return panels | ({"learning rate": rates} if rates else {})


def _points(rows: Sequence[Mapping[str, Any]], column: str) -> Points:
    steps, values = [], []
    for row in rows:
        text = row.get(column, "")
        if text not in ("", None) and math.isfinite(float(text)):
            # the row of step s holds what is known after s + 1 steps
            steps.append(float(row["step"]) + 1)
            values.append(float(text))
    return steps, values


def _draw(axes: Axes, label: str, points: Points, others: int) -> Any:
    # learning rates and reference values take the colors that have no role yet
    other = {"color": (*COLORS[:2:-1], *COLORS[:3])[others % len(COLORS)]}
    style: dict[str, Any] = dict(_ROLES.get(label, other))
    # few points are seen only as markers
    if label != "train, each step" and len(points[0]) <= 30:
        style |= {"marker": "o", "markersize": 3.5}
    (line,) = axes.plot(*points, **style)
    return line


def _scale(axes: Axes, name: str, series: Iterable[Points]) -> None:
    values = [value for _, points in series for value in points]
    low, high = min(values), max(values)
    if name != "learning rate" and low > 0 and high / low > 100:
        axes.set_yscale("log")
    elif low >= 0 and high > 0 and low < 0.5 * high:
        axes.set_ylim(bottom=0)
    if high > low:
        return
    # a constant would otherwise get ticks like 1e-9 + 0.001
    axes.set_ylim(0, 2 * high) if high > 0 else axes.set_ylim(low - 1, high + 1)
