"""Settings of a study and what they came to: parallel coordinates and slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from framework.figures.panels import spans_decades
from framework.figures.style import COLORS, STYLE, titled
from framework.tuning.unit_cube import from_unit, to_unit

SHADES = "viridis"
BEST = COLORS[1]


@dataclass(frozen=True)
class Findings:
    """What is known of the parameters of a study.

    Args:
        trials: Complete trials.
        space: Parameters that are shown.
        labels: Short names of the parameters.
        metric: Name of the metric that is tuned.
        best: Number of the best trial.
    """

    trials: Sequence[FrozenTrial]
    space: Mapping[str, BaseDistribution]
    labels: Mapping[str, str]
    metric: str
    best: int

    @property
    def values(self) -> list[float]:
        """Value of each trial."""
        return [float(trial.value) for trial in self.trials]


@rc_context(STYLE)
def parallel_coordinates_figure(found: Findings, larger_is_better: bool) -> Figure:
    """Draw each trial as a line through its settings to its value, the good ones dark.

    Args:
        found: What is known of the parameters.
        larger_is_better: Whether the metric is maximized.
    """
    trials, space = found.trials, found.space
    figure = titled(f"Settings of {len(trials)} trials, by rank of {found.metric}", 3.6)
    axes = figure.add_subplot()
    low, high = min(found.values), max(found.values)
    logarithmic = spans_decades(low, high)
    ordered = sorted(trials, key=lambda trial: float(trial.value), reverse=not larger_is_better)
    shades = colormaps[SHADES]
    for rank, trial in enumerate(ordered):
        place = _place(float(trial.value), low, high, logarithmic)
        line = [*(to_unit(kind, trial.params[name]) for name, kind in space.items()), place]
        is_best = trial.number == found.best
        color = BEST if is_best else shades(0.95 * (1 - (rank + 1) / len(ordered)))
        axes.plot(
            range(len(line)),
            line,
            color=color,
            alpha=1.0 if is_best else 0.6,
            linewidth=2.5 if is_best else 1.2,
            label=f"best, trial {trial.number}" if is_best else None,
        )
    for column, kind in enumerate(space.values()):
        _ticks(axes, column, _marks(kind))
    last = len(space)
    ends = dict(zip((0.0, 1.0), apart(low, high), strict=True))
    _ticks(axes, last, ends if high > low else {0.5: ends[0.0]})
    axes.set_xticks(range(last + 1), [*(found.labels[name] for name in space), found.metric])
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlim(-0.2, last + 0.2)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(loc="outside lower right")
    bar = figure.colorbar(
        ScalarMappable(cmap=colormaps[f"{SHADES}_r"]), ax=axes, ticks=[0.03, 0.97], aspect=30
    )
    bar.ax.set_yticklabels(["worst", "best"])
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    return figure


@rc_context(STYLE)
def slices_figure(found: Findings) -> Figure:
    """Draw the value of each trial over each of its settings, the later ones darker.

    Args:
        found: What is known of the parameters.
    """
    trials, space, values = found.trials, found.space, found.values
    columns = min(3, len(space))
    lines = math.ceil(len(space) / columns)
    figure = titled(f"{found.metric} over each setting, later trials darker", 0.8 + 2.2 * lines)
    winner = next((trial for trial in trials if trial.number == found.best), None)
    first: Axes | None = None
    for place, (name, kind) in enumerate(space.items(), start=1):
        axes = figure.add_subplot(lines, columns, place, sharey=first)
        first = first or axes
        axes.scatter(
            [_coordinate(kind, trial.params[name]) for trial in trials],
            values,
            c=[trial.number for trial in trials],
            cmap=f"{SHADES}_r",
            s=16,
        )
        if winner is not None:
            at = _coordinate(kind, winner.params[name])
            axes.plot(at, winner.value, "*", color=BEST, markersize=11, label="best")
        axes.set_xlabel(found.labels[name])
        if isinstance(kind, CategoricalDistribution):
            axes.set_xticks(range(len(kind.choices)), [str(choice) for choice in kind.choices])
            axes.set_xlim(-0.5, len(kind.choices) - 0.5)
        elif kind.log:
            _log_axis(axes, kind)
        elif isinstance(kind, IntDistribution):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if (place - 1) % columns == 0:
            axes.set_ylabel(found.metric)
        else:
            axes.tick_params(labelleft=False)
    assert first is not None
    scale_values(first, values)
    return figure


def scale_values(axes: Axes, values: Sequence[float]) -> None:
    """Take a logarithmic axis where the values could not be told apart otherwise."""
    if spans_decades(min(values), max(values)):
        axes.set_yscale("log")


def apart(low: float, high: float) -> tuple[str, str]:
    """Return two values in as few digits, three or more, as tell them apart.

    Example:
        >>> apart(2.3384, 2.3421)
        ('2.338', '2.342')
    """
    texts = [(f"{low:.{digits}g}", f"{high:.{digits}g}") for digits in range(3, 18)]
    return next((both for both in texts if both[0] != both[1]), texts[0])


def _log_axis(axes: Axes, kind: Any) -> None:
    """Show the whole range, by its ends and its middle, however few decades it has."""
    marks = _numbers(kind)
    margin = (kind.high / kind.low) ** 0.05
    axes.set_xscale("log")
    axes.set_xlim(kind.low / margin, kind.high * margin)
    axes.set_xticks(list(marks), list(marks.values()))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _coordinate(kind: BaseDistribution, value: Any) -> float:
    if isinstance(kind, CategoricalDistribution):
        return float(kind.to_internal_repr(value))
    return float(value)


def _place(value: float, low: float, high: float, logarithmic: bool) -> float:
    if high == low:
        return 0.5
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _marks(kind: BaseDistribution) -> dict[float, str]:
    """Return the values that are written at an axis, by their places."""
    if isinstance(kind, CategoricalDistribution):
        return {to_unit(kind, choice): str(choice) for choice in kind.choices}
    return {to_unit(kind, value): text for value, text in _numbers(kind).items()}


def _numbers(kind: Any) -> dict[float, str]:
    """Return the ends and the middle of a range, and what is written for them."""
    values = dict.fromkeys((kind.low, from_unit(kind, 0.5), kind.high))
    whole = isinstance(kind, IntDistribution)
    return {value: str(value) if whole else f"{value:.3g}" for value in values}


def _ticks(axes: Axes, column: int, marks: Mapping[float, str]) -> None:
    """Draw an axis of the parallel coordinates."""
    axes.axvline(column, color="0.6", linewidth=0.8, zorder=0)
    for place, text in marks.items():
        axes.annotate(
            text[:18],
            (column, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.15",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.8},
        )
