"""Test error against the number of features: the peak of an exact solver, and none before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.style import COLORS, STYLE, titled

EXACT = COLORS[1]


class WidthErrors(NamedTuple):
    """Errors of networks on test rows, by width and draw.

    Args:
        mse: Squared error (W, R), summed over the classes.
        error: Share of wrong classes (W, R).
    """

    mse: Tensor
    error: Tensor


@rc_context(STYLE)
def double_descent(
    widths: Sequence[int],
    rows: int,
    exact: WidthErrors,
    curves: Mapping[str, WidthErrors],
    condition: Tensor,
    others: Mapping[str, WidthErrors] | None = None,
) -> Figure:
    """Draw the test error at every width, of exact solutions and of trained heads.

    Lines are means over the draws, faint dots are single draws of what varies most. The title says
    what the errors at P = N are, in units of those of the widest networks.

    Args:
        widths: Numbers of features P, in ascending order.
        rows: Number of training rows N.
        exact: Errors of the exact solutions.
        curves: Errors of trained heads by name, one at least, the smallest budget first.
        condition: Condition number (W, R) of the features.
        others: Errors of heads that were trained by other methods, by name.
    """
    entries = 1 + len(curves) + len(others or {})
    columns = entries if entries <= 4 else 3
    height = 5.0 + 0.2 * math.ceil(entries / columns)
    title = f"Double descent: test error by the number of features, {rows:,} training rows"
    figure = titled(title, height)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
    left = figure.add_subplot(grid[:, 0])
    shades = _shades(len(curves))
    named = dict(zip(curves, shades, strict=True))
    named |= dict(zip(others or {}, cycle(COLORS[2:]), strict=False))
    trained = {**curves, **(others or {})}
    said = _summary(widths, rows, exact, trained)
    left.set_title(said, loc="left", fontsize=9, color="0.35")
    _line(left, widths, exact.mse, "exact least squares", EXACT, dots=True)
    for name, errors in trained.items():
        _line(left, widths, errors.mse, name, named[name])
    left.set_yscale("log")
    left.set_ylabel("squared error on test rows")
    left.set_xlabel("number of random features P")
    figure.legend(loc="outside lower center", ncols=columns)

    share = figure.add_subplot(grid[0, 1])
    _line(share, widths, exact.error, "", EXACT)
    for name, errors in trained.items():
        _line(share, widths, errors.error, "", named[name])
    share.set_ylim(bottom=0)
    share.set_title("wrong classes on test rows", loc="left", fontsize=9, color="0.35")
    share.yaxis.set_major_formatter("{x:.0%}")

    kappa = figure.add_subplot(grid[1, 1])
    kappa.set_title("condition number of the features", loc="left", fontsize=9, color="0.35")
    _line(kappa, widths, condition, "", "0.3", dots=True)
    kappa.set_yscale("log")
    kappa.set_xlabel("P")
    for axes in (left, share, kappa):
        _width_axis(axes, widths, rows)
    if widths[0] < rows < widths[-1]:
        _explain_threshold(left, rows)
    return figure


def _explain_threshold(axes: Axes, rows: int) -> None:
    """Say at the line P = N what lies on either side of it."""
    place: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "color": "0.35",
        "fontsize": 8,
        # the line of few widths may run below
        "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    }
    threshold = "P = N: as many features\nas training rows"
    at_line = {**place, "xycoords": ("data", "axes fraction")}
    axes.annotate(threshold, (rows, 1), (-5, -4), ha="right", va="top", **at_line)
    fewer = "P < N: not every label\ncan be fitted"
    axes.annotate(fewer, (0, 0.4), (8, 0), ha="left", va="center", **place)
    more = "P > N: of many exact fits,\nthat of smallest weights"
    axes.annotate(more, (1, 0.4), (-8, 0), ha="right", va="center", **place)


def _shades(number: int) -> list[str]:
    """Return blues, the darkest for the last budget."""
    light = 0.4 if number > 1 else 1.0
    blues = colormaps["Blues"](np.linspace(light, 1, number))
    return [to_hex(color) for color in blues]


def _line(
    axes: Axes, widths: Sequence[int], values: Tensor, name: str, color: str, dots: bool = False
) -> None:
    axes.plot(widths, values.mean(1).tolist(), color=color, label=name, marker=".")
    if dots:
        for draw in values.T:
            axes.plot(widths, draw.tolist(), ".", color=color, alpha=0.3, markersize=4)


def _width_axis(axes: Axes, widths: Sequence[int], rows: int) -> None:
    axes.set_xscale("log")
    axes.set_xlim(widths[0] / 1.1, widths[-1] * 1.1)
    shown: list[int] = []
    for width in sorted(widths, key=lambda p: (p != rows, p not in (widths[0], widths[-1]), p)):
        # labels closer to one another than a third of a doubling would overlap
        if all(abs(math.log2(width / other)) > 0.45 for other in shown):
            shown.append(width)
    axes.set_xticks(shown, [f"{width:,}" for width in shown])
    axes.minorticks_off()
    axes.axvline(rows, color="0.6", linewidth=1.0, linestyle="--", zorder=0)


def _summary(
    widths: Sequence[int], rows: int, exact: WidthErrors, trained: Mapping[str, WidthErrors]
) -> str:
    """Return how high the peaks of the exact solution and of trained heads are."""
    near = min(range(len(widths)), key=lambda place: abs(widths[place] - rows))

    def height(errors: WidthErrors) -> float:
        return float(errors.mse[near].mean() / errors.mse[-1].mean())

    found = sorted(height(errors) for errors in trained.values())
    low, high = (_digits(value) for value in (found[0], found[-1]))
    said = low if low == high else f"{low} to {high}"
    ratio = f"error at P = {widths[near]:,} over P = {widths[-1]:,}"
    return f"{ratio}: exact {_digits(height(exact))}, trained {said}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
