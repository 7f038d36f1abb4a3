"""Runs where they fit equally well: the values that each has when it first reaches one loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from framework.figures.panels import Curve
from framework.reports.run_result import RunResult
from framework.reports.settings import differences, short_names

TRAIN_LOSS = "train/loss_epoch"
SEEDS = ("seed_everything", "seed")
"""Settings of replicates."""
FAR = 0.25
"""Share of the level by which a loss is far below it."""
SHOWN = ("val/", "probe/")
"""Beginnings of the names of the metrics that are compared."""


class Mean(NamedTuple):
    """Mean of some runs.

    Args:
        mean: Mean.
        error: Standard error of the mean; None of one run.
        runs: Number of runs.
    """

    mean: float
    error: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """Return the mean of values, or None without any.

        Example:
            >>> Mean.of([1.0, 3.0])
            Mean(mean=2.0, error=1.0, runs=2)
        """
        if not values:
            return None
        count = len(values)
        error = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else None
        return cls(float(np.mean(values)), error, count)

    def __str__(self) -> str:
        mean = f"{self.mean:.4g}"
        return mean if self.error is None else f"{mean} ± {self.error:.2g}"


@dataclass
class Group:
    """Runs of equal settings but for their seeds.

    Args:
        name: Settings in which it differs from other groups.
        runs: Numbers of the runs.
        values: Means by metric.
        steps: Mean number of optimizer steps to the loss.
    """

    name: str
    runs: list[int] = field(default_factory=list)
    values: dict[str, Mean] = field(default_factory=dict)
    steps: Mean | None = None


class EqualLoss:
    """Compares runs at the first epoch in which each has a training loss at or below one level.

    Runs that differ in nothing but seeds are replicates of one group. What is measured more rarely
    than the loss is of the first measurement from that epoch on.

    Args:
        runs: Runs, two or more.
        metric: Loss by which runs are equal.
        level: Loss at which they are compared; None for the lowest that all of them reach.

    Raises:
        ValueError: Fewer than two runs, or none reaches the level or has the loss.
    """

    def __init__(
        self, runs: Sequence[RunResult], metric: str = TRAIN_LOSS, level: float | None = None
    ) -> None:
        if len(runs) < 2:
            raise ValueError("--equal compares runs: name two or more, or a folder of them.")
        self.metric = metric
        self.notes: list[str] = []
        names = short_names([run.path for run in runs])
        losses = [_finite(run, metric) for run in runs]
        lowest = [math.nan if curve is None else float(curve.values.min()) for curve in losses]
        known = [low for low in lowest if not math.isnan(low)]
        if not known:
            raise ValueError(
                f"No run has logged {metric}: name another loss by --equal METRIC, such as "
                f"{TRAIN_LOSS}."
            )
        self.is_given = level is not None
        self.level = max(known) if level is None else level
        """Loss at which the runs are compared."""
        self.reached: list[int | None] = []
        """Steps after which each run has reached it, or None."""
        for name, curve, low in zip(names, losses, lowest, strict=True):
            step = None
            if curve is None:
                self.notes.append(f"{name} is left out: it has logged no finite {metric}.")
            elif low > self.level:
                self.notes.append(
                    f"{name} is left out: it never reaches {self.level:.4g}, its lowest "
                    f"{metric} is {low:.4g}."
                )
            else:
                step = int(curve.steps[np.flatnonzero(curve.values <= self.level)[0]])
            self.reached.append(step)
        if not any(step is not None for step in self.reached):
            raise ValueError(
                f"No run reaches {metric} = {self.level:.4g}; the lowest is {min(known):.4g}: "
                "choose a larger --at."
            )
        if level is None:
            limit = names[int(np.nanargmax(lowest))]
            self.notes.insert(
                0,
                f"{self.level:.4g} is the lowest loss that all runs reach; {limit} comes no lower. "
                "Another is chosen by --at VALUE.",
            )
        self.groups = self._grouped(runs)
        self.metrics = self._compared(runs)
        """Names of the metrics that are compared, the loss first."""
        for group in self.groups:
            self._measure(group, runs)
        for group in self.groups:
            at = group.values[metric].mean
            if at < self.level - FAR * abs(self.level):
                self.notes.append(
                    f"{group.name} is at {at:.4g} there, far below {self.level:.4g}: a loss is "
                    "known once an epoch, and shorter epochs bring runs closer."
                )
        alone = [group.name for group in self.groups if len(group.runs) == 1]
        if alone:
            self.notes.append(
                f"One run only, and so no standard error: {'; '.join(alone)}. Runs that differ in "
                "seed_everything alone are replicates."
            )

    def _grouped(self, runs: Sequence[RunResult]) -> list[Group]:
        settings = [
            {k: v for k, v in run.settings.items() if k.rpartition(".")[2] not in SEEDS}
            for run in runs
        ]
        found = differences(settings)
        groups: dict[str, Group] = {}
        for number, differing in enumerate(found):
            if self.reached[number] is None:
                continue
            name = _name(differing, found)
            groups.setdefault(str(sorted(differing.items())), Group(name)).runs.append(number)
        return list(groups.values())

    def _compared(self, runs: Sequence[RunResult]) -> list[str]:
        found: dict[str, None] = {self.metric: None}
        for number, run in enumerate(runs):
            if self.reached[number] is not None:
                names = run.curves.get("fit", {})
                found |= dict.fromkeys(name for name in names if name.startswith(SHOWN))
        return list(found)

    def _measure(self, group: Group, runs: Sequence[RunResult]) -> None:
        for metric in self.metrics:
            values = [self._value(runs[number], number, metric) for number in group.runs]
            mean = Mean.of([value for value in values if value is not None])
            if mean is not None:
                group.values[metric] = mean
        group.steps = Mean.of([float(self.reached[number] or 0) for number in group.runs])

    def _value(self, run: RunResult, number: int, metric: str) -> float | None:
        """Return the first value that a run measured since it reached the loss."""
        curve, step = _finite(run, metric), self.reached[number]
        if curve is None or step is None:
            return None
        later = np.flatnonzero(curve.steps >= step)
        return float(curve.values[later[0]]) if len(later) else None


def _finite(run: RunResult, metric: str) -> Curve | None:
    curve = run.curves.get("fit", {}).get(metric)
    if curve is None or not len((finite := curve.finite).steps):
        return None
    return finite


def _name(differing: dict[str, str], others: Sequence[dict[str, str]]) -> str:
    """Return what tells a group from others, the optimizer first and without its name.

    Settings that only this optimizer has, and always alike, are left out.
    """
    optimizer = next((k for k in differing if k.rpartition(".")[2] == "optimizer"), "")
    kin = [other for other in others if other.get(optimizer) == differing.get(optimizer)]
    told = [
        f"{key}={value}"
        for key, value in differing.items()
        if key != optimizer
        and (all(key in other for other in others) or any(one.get(key) != value for one in kin))
    ]
    return " ".join([differing[optimizer], *told] if optimizer else told) or "all runs"
