"""Figures for a person who sees the run for the first time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from framework.checkpoint import write_atomically

# Okabe and Ito's palette, which is told apart without seeing red or green
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelcolor": "0.25",
    "axes.edgecolor": "0.6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "xtick.color": "0.25",
    "ytick.color": "0.25",
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "figure.dpi": 100.0,
    "savefig.dpi": 150.0,
}
WIDTH = 8.0
"""Inches; at 100 pixels per inch the text is still easily read."""

Points = tuple[list[float], list[float]]


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with rc_context(STYLE):
        write_atomically(path, lambda file: figure.savefig(file, format="png"))


@rc_context(STYLE)
def learning_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each logged quantity over the steps: one panel per loss term or metric.

    Training's steps and epoch means, validation and test share a panel where they share a name;
    the learning rates share the last one.

    Args:
        rows: of ``metrics.csv``: ``step`` and values, as numbers or as text, by column. Values that
            are not finite are left out.
    """
    panels = _panels(rows)
    columns = min(3, max(1, len(panels)))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(WIDTH, 0.9 + 2.1 * lines), layout="constrained")
    steps = 1 + max((int(row["step"]) for row in rows), default=-1)
    figure.suptitle(f"Learning curves over {steps:,} steps", fontsize=12, x=0.01, ha="left")
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
    "train, each step": {"color": COLOURS[0], "alpha": 0.35, "linewidth": 1.0},
    "train, epoch mean": {"color": COLOURS[0]},
    "validation": {"color": COLOURS[1]},
    "test": {"color": COLOURS[2], "linestyle": "none"},
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
    # learning rates and reference values take the colours that have no role yet
    other = {"color": (*COLOURS[:2:-1], *COLOURS[:3])[others % len(COLOURS)]}
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


def confusion_matrix(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]],
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw a confusion matrix: the colour is the share of the true class, the number the count.

    Args:
        matrix: (K, K) counts; rows are true classes, columns predicted ones.
        class_names: K names; default 0..K-1.

    Raises:
        ValueError: the matrix is not square, or the number of names is another.
    """
    counts = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, dtype=np.float64)
    classes = len(counts)
    if counts.shape != (classes, classes):
        raise ValueError(f"A confusion matrix is square, got {counts.shape}.")
    names = [str(k) for k in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"{len(names)} class names do not fit a {classes} x {classes} matrix.")
    total, right = counts.sum(), np.trace(counts)
    return count_matrix(
        counts,
        (names, names),
        axis_names=("true class", "predicted class"),
        title="Confusion matrix",
        subtitle=f"{right:,.0f} of {total:,.0f} samples are classified correctly"
        f" ({right / max(total, 1):.1%})",
    )


@rc_context(STYLE)
def count_matrix(
    counts: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    axis_names: tuple[str, str],
    title: str,
    subtitle: str,
) -> Figure:
    """Draw a table of counts: the colour is the share of the row, the number the count.

    Args:
        counts: (R, C); the last axis runs to the right.
        names: of the R rows and of the C columns.
        axis_names: what a row is, and what a column is.
        title: of the figure.
        subtitle: one sentence on what the table says.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # cells are squares, so that a wide table is low
    height = min(6.8, max(3.2, 1.4 + 6.2 * len(counts) / counts.shape[1]))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.add_subplot()
    axes.set_title(subtitle, fontsize=9, color="0.35")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, format="{x:.0%}")
    bar.set_label(f"share of the {axis_names[0]}")
    bar.outline.set_visible(False)
    rows, columns = (range(0, len(axis), math.ceil(len(axis) / 30)) for axis in names)
    turned = max(len(name) for name in names[1]) * len(columns) > 75
    axes.set_xticks(
        columns,
        [names[1][k] for k in columns],
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_yticks(rows, [names[0][k] for k in rows])
    axes.tick_params(length=0)
    axes.set_ylabel(axis_names[0])
    axes.set_xlabel(axis_names[1])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    largest = max(counts.shape)
    if largest <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            axes.text(
                column,
                row,
                f"{counts[row, column]:,.0f}",
                ha="center",
                va="center",
                fontsize=9 if largest <= 12 else 7,
                color="white" if share[row, column] > 0.55 else "0.15",
            )
    return figure


@rc_context(STYLE)
def predicted_against_true(predicted: Tensor, true: Tensor, name: str = "target") -> Figure:
    """Draw predictions over true values; on the line they are right.

    Args:
        predicted: (N,), in the unit of the data.
        true: (N,).
        name: of what is predicted.
    """
    figure = Figure(figsize=(0.75 * WIDTH, 0.7 * WIDTH), layout="constrained")
    figure.suptitle(f"Predictions of {name.replace('_', ' ')}", fontsize=12)
    axes = figure.add_subplot()
    axes.set_title(f"{len(true):,} samples; on the line a prediction is right", fontsize=9)
    x, y = true.double().numpy(), predicted.double().numpy()
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    # faint where points are many, so that they show how many lie on top of one another
    alpha = 0.8 if len(x) <= 200 else 0.35
    axes.scatter(x, y, s=14, color=COLOURS[0], alpha=alpha, linewidths=0)
    if len(x):
        axes.axline((x.min(), x.min()), slope=1, color=COLOURS[1], linewidth=1.2)
    axes.set_xlabel("true value")
    axes.set_ylabel("predicted value")
    return figure
