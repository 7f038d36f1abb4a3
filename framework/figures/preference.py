"""Figures of a run whose terms are weighed by their gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from framework.figures.style import COLORS, STYLE, titled

PREFIX = "train/preference/"

Rows = Sequence[Mapping[str, Any]]


def preference_figures(rows: Rows) -> dict[str, Figure]:
    """Return figures of the weights of terms and of the angles between their gradients.

    Args:
        rows: Rows of ``metrics.csv``: ``step`` and values, as numbers or as text, by column.

    Returns:
        ``preference_weights`` and, of two terms or more, ``preference_cosines``; nothing where no
        combiner was at work.
    """
    weights = _table(rows, f"{PREFIX}weight/")
    figures = {}
    if weights is not None and len(weights[1]) > 1:
        figures["preference_weights"] = weight_trajectory(*weights)
        cosines = _table(rows, f"{PREFIX}cosine/")
        if cosines is not None:
            figures["preference_cosines"] = cosine_curves(*cosines)
    return figures


@rc_context(STYLE)
def weight_trajectory(steps: np.ndarray, names: Sequence[str], values: np.ndarray) -> Figure:
    """Draw the weights of T terms over the steps and as a path on their simplex.

    Args:
        steps: Optimizer steps (N,).
        names: Names of the T terms.
        values: Non-negative weights (N, T); a row is drawn in shares of its sum, NaN as 0.
    """
    shares = np.nan_to_num(values).clip(min=0)
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
    mean = ", ".join(f"{n} {m:.2f}" for n, m in zip(names, shares.mean(0), strict=True))
    figure = titled(f"Weights of the terms (mean: {mean})", 3.9)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    left.set_title("share of each term", loc="left")
    colors = [COLORS[k % len(COLORS)] for k in range(len(names))]
    left.stackplot(steps, shares.T, labels=names, colors=colors, alpha=0.85, step="mid")
    left.set(xlabel="optimizer step", ylim=(0, 1), xlim=_limits(steps))
    _path(right, figure, steps, names, shares, colors)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=min(5, len(names))
    )
    return figure


def _path(
    axes: Axes,
    figure: Figure,
    steps: np.ndarray,
    names: Sequence[str],
    shares: np.ndarray,
    colors: Sequence[str],
) -> None:
    """Draw the path between the corners of a regular polygon, one corner per term."""
    angle = math.pi / 2 + 2 * math.pi * np.arange(len(names)) / len(names)
    corners = np.stack([np.cos(angle), np.sin(angle)], 1)
    if len(names) == 2:
        corners = np.array([[-1.0, 0.0], [1.0, 0.0]])
    points = shares @ corners
    axes.set_title("on the simplex", loc="left")
    outline = np.vstack([corners, corners[:1]])
    axes.plot(*outline.T, color="0.6", linewidth=1.0, zorder=1)
    axes.plot(*points.T, color="0.75", linewidth=0.6, zorder=2)
    x, y = points.T
    drawn = axes.scatter(x, y, c=steps, cmap="viridis", s=12, zorder=3)
    x, y = corners.mean(0)
    axes.scatter(x, y, marker="+", s=60, color="0.3", zorder=4)
    for corner, name, color in zip(corners, names, colors, strict=True):
        axes.annotate(name, 1.22 * corner, color=color, weight="bold", ha="center", va="center")
    axes.set_aspect("equal")
    axes.set(xlim=(-1.5, 1.5), ylim=(-1.3, 1.35))
    axes.axis("off")
    figure.colorbar(drawn, ax=axes, label="step", shrink=0.6)


@rc_context(STYLE)
def cosine_curves(steps: np.ndarray, names: Sequence[str], values: np.ndarray) -> Figure:
    """Draw the cosine between the gradients of each pair of terms over the steps.

    Args:
        steps: Optimizer steps (N,).
        names: Names of the pairs, ``a/b``.
        values: Cosines (N, pairs); NaN where there is none.
    """
    conflicts = float((values[~np.isnan(values)] < 0).mean())
    title = f"Cosines of the gradients of two terms ({conflicts:.0%} below 0: a conflict)"
    figure = titled(title, 3.4)
    axes = figure.add_subplot()
    axes.axhline(0, color="0.4", linewidth=1.0)
    for place, name in enumerate(names):
        label = name.replace("/", " and ")
        known = ~np.isnan(values[:, place])
        marker = "o" if known.sum() <= 30 else None
        axes.plot(
            steps[known],
            values[known, place],
            label=label,
            color=COLORS[place % len(COLORS)],
            linewidth=1.0,
            marker=marker,
            markersize=3.5,
        )
    axes.set(xlabel="optimizer step", ylabel="cosine", ylim=(-1.05, 1.05), xlim=_limits(steps))
    figure.legend(loc="outside lower center", ncols=min(3, len(names)))
    return figure


def _limits(steps: np.ndarray) -> tuple[float, float]:
    # one step is no range
    return float(steps.min()), float(max(steps.max(), steps.min() + 1))


def _table(rows: Rows, prefix: str) -> tuple[np.ndarray, list[str], np.ndarray] | None:
    """Return steps (N,), names and values (N, names) of the columns that begin with a prefix."""
    columns = [n for n in dict.fromkeys(c for row in rows for c in row) if n.startswith(prefix)]
    steps, values = [], []
    for row in rows:
        found = [row.get(column, "") for column in columns]
        line = [math.nan if text in ("", None) else float(text) for text in found]
        if not all(math.isnan(value) for value in line):
            # the row of step s holds what is known after s + 1 steps
            steps.append(float(row["step"]) + 1)
            values.append(line)
    if not steps:
        return None
    return np.array(steps), [name.removeprefix(prefix) for name in columns], np.array(values)
