"""Curves as the script of a page draws them: few points, in plain lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from framework.figures.panels import RATE, ROLES, TRAIN_EPOCH, TRAIN_STEP, Curve, panels
from framework.reports.run_result import RunResult

MOST_POINTS = 1000
"""Points of a curve; the eye sees no more at the width of a screen."""
MOST_OF_ALL = 200_000
"""Points of all curves of a page, which then has about 4 MB."""
LEAST_POINTS = 50
COLORS = {
    TRAIN_STEP: "train-step",
    TRAIN_EPOCH: "train",
    ROLES["val"]: "val",
    ROLES["test"]: "test",
}
"""Classes of the curves that every run has."""

Chart = dict[str, Any]


def thin(curve: Curve, most: int) -> Curve:
    """Return a curve of few points that looks the same: the least and the largest of each stretch.

    Args:
        curve: Curve of finite values.
        most: Number of points at most, from 4 on.

    Example:
        >>> values = np.zeros(10_000)
        >>> values[4321] = 1.0
        >>> found = thin(Curve(np.arange(10_000), values), 100)
        >>> len(found.steps) <= 100, float(found.values.max())
        (True, 1.0)
    """
    size = len(curve.steps)
    if size <= most:
        return curve
    stretches = most // 2 - 1
    ends = np.linspace(0, size, stretches + 1).astype(int)
    chosen = {0, size - 1}
    for start, stop in pairwise(ends):
        part = curve.values[start:stop]
        chosen |= {start + int(part.argmin()), start + int(part.argmax())}
    kept = np.array(sorted(chosen))
    return Curve(curve.steps[kept], curve.values[kept])


def run_charts(run: RunResult) -> list[Chart]:
    """Return the charts of one run, training, validation and test of a metric in the same."""
    curves = dict(run.curves.get("fit", {}))
    step = run.progress[0]
    for command in ("validate", "test"):
        for name, curve in run.curves.get(command, {}).items():
            # an evaluation counts from the first step; it belongs at the end of the curves
            curves.setdefault(name, Curve(np.array([step]), curve.values[-1:]))
    charts = []
    for name, labels in panels(curves).items():
        series = [_series(0, label, curve, MOST_POINTS) for label, curve in labels.items()]
        for one in series:
            one["kind"] = COLORS.get(one["label"], "other")
        charts.append(
            {
                "title": name.replace("_", " "),
                "unit": unit_of(run.units, name),
                "auto": name != RATE,
                "series": series,
            }
        )
    return charts


def comparison_charts(runs: Sequence[RunResult], first: str) -> list[Chart]:
    """Return the charts of several runs, one for each metric.

    Args:
        runs: Runs.
        first: Metric whose chart comes first.
    """
    found: dict[str, list[tuple[int, Curve]]] = {}
    for number, run in enumerate(runs):
        for name, curve in _compared(run.curves.get("fit", {})).items():
            found.setdefault(name, []).append((number, curve))
    count = sum(map(len, found.values()))
    most = min(MOST_POINTS, max(LEAST_POINTS, MOST_OF_ALL // max(count, 1)))
    order = sorted(found, key=lambda name: (name != first, _stage(name)))
    return [
        {
            "title": title(name),
            "unit": next((unit for run in runs if (unit := run.units.get(name))), ""),
            "auto": not name.startswith("lr-"),
            "series": [_series(number, "", curve, most) for number, curve in found[name]],
        }
        for name in order
    ]


def epochs(run: RunResult) -> dict[str, list[float]]:
    """Return the steps at which epochs were done, by which a script converts steps to epochs."""
    ends = run.epoch_ends
    if len(ends.steps) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(ends.steps) - 1, MOST_POINTS).astype(int))
        ends = Curve(ends.steps[kept], ends.values[kept])
    return {"steps": ends.steps.tolist(), "epochs": ends.values.tolist()}


def unit_of(units: Mapping[str, str], name: str) -> str:
    """Return the unit of a metric of whatever stage, or nothing.

    Example:
        >>> unit_of({"test/rmse": "mm"}, "rmse"), unit_of({"test/rmse": "mm"}, "r2")
        ('mm', '')
    """
    logged = (f"val/{name}", f"test/{name}", f"train/{name}", f"train/{name}_epoch", name)
    return next((units[one] for one in logged if one in units), "")


def title(metric: str) -> str:
    """Return what a metric is called above a chart.

    Example:
        >>> title("val/accuracy_top5"), title("train/loss_epoch"), title("lr-AdamW")
        ('validation: accuracy top5', 'train: loss, epoch mean', 'learning rate AdamW')
    """
    if metric.startswith("lr-"):
        return f"learning rate {metric.removeprefix('lr-')}"
    stage, _, name = metric.partition("/")
    if not name:
        return metric
    if stage == "train" and name.endswith("_epoch"):
        name = f"{name.removesuffix('_epoch')}, epoch mean"
    return f"{'validation' if stage == 'val' else stage}: {name.replace('_', ' ')}"


def _compared(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return what can be drawn, and of what is there twice the first."""
    kept: dict[str, Curve] = {}
    seen: set[tuple[str, bytes, bytes]] = set()
    for name, raw in curves.items():
        stage, _, metric = name.partition("/")
        curve = raw.finite
        if name in ("epoch", "step") or metric.startswith("preference/") or not len(curve.steps):
            continue
        # a single term is the loss, and groups of parameters may share a learning rate
        if stage in ROLES or name.startswith("lr-"):
            points = (stage, curve.steps.tobytes(), curve.values.tobytes())
            if points in seen:
                continue
            seen.add(points)
        kept[stage if name.startswith("lr-") else name] = curve
    return kept


def _stage(name: str) -> int:
    starts = ("val/", "train/", "test/", "lr-")
    return next((k for k, start in enumerate(starts) if name.startswith(start)), len(starts))


def _series(run: int, label: str, curve: Curve, most: int) -> dict[str, Any]:
    thinned = thin(curve, most)
    return {
        "run": run,
        "label": label,
        "steps": thinned.steps.astype(int).tolist(),
        "values": [float(f"{value:.6g}") for value in thinned.values.tolist()],
    }
