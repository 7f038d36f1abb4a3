"""What a run was and what it came to, as its folder says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framework.figures.panels import Curve
from framework.reports.executions import Execution, read_executions
from framework.reports.settings import flat_settings
from framework.runs.checkpoint_argument import run_of
from framework.runs.metric_curves import epoch_at, epoch_ends, read_curves
from framework.runs.version_0_1 import current_config
from framework.utilities.secret_values import without_secrets
from framework.utilities.yaml_files import read_yaml

FILES = {
    "fit": "metrics.csv",
    "validate": "metrics_validate.csv",
    "test": "metrics_test.csv",
}
"""Tables of metrics in a run folder, by the command that writes them."""


class Best(NamedTuple):
    """The best value of a metric.

    Args:
        value: Value.
        step: Optimizer steps done by then.
        epoch: Epochs done by then.
    """

    value: float
    step: int
    epoch: float


@dataclass
class RunResult:
    """What a run was and what it came to.

    Args:
        path: Run folder.
        config: Config as it was read, a dict.
        curves: Curves of the metrics by command and name.
        executions: What is known of each command's execution.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """Return the result of a run folder, which may be anybody's.

        Raises:
            ValueError: A file of it is of another form, or too large.
        """
        file = path / "config.yaml"
        config = current_config(read_yaml(file)) if file.is_file() else None
        if config is not None and not isinstance(config, dict):
            raise ValueError(f"{file} holds no settings by name.")
        curves = {command: read_curves(path / name) for command, name in FILES.items()}
        return cls(path, without_secrets(config or {}), curves, read_executions(path))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted name."""
        return flat_settings(self.config) if self.config else {}

    @property
    def units(self) -> dict[str, str]:
        """Units of the metrics that have one, by the names of the metrics."""
        return {n: unit for done in self.executions.values() for n, unit in done.units.items()}

    @property
    def monitored(self) -> tuple[str, str] | None:
        """The metric that the best checkpoint is chosen by, and its mode, ``min`` or ``max``."""
        name = self.settings.get("checkpoint.monitor")
        mode = "max" if self.settings.get("checkpoint.mode") == "max" else "min"
        return None if not name else (str(name), mode)

    @cached_property
    def epoch_ends(self) -> Curve:
        """How many steps were done at the end of each epoch."""
        return epoch_ends(self.curves.get("fit", {}))

    @cached_property
    def progress(self) -> tuple[int, float]:
        """Optimizer steps and epochs that were done when the last value was logged."""
        fitted = self.curves.get("fit", {}).values()
        step = max((int(curve.steps.max()) for curve in fitted if len(curve.steps)), default=0)
        return step, epoch_at(step, self.epoch_ends)

    def all_values(self, metric: str) -> list[float]:
        """Return the finite values of a metric, in order; those of an evaluation come last."""
        found = [table[metric].finite for table in self.curves.values() if metric in table]
        return [float(value) for curve in found for value in curve.values]

    def latest(self, metric: str) -> float | None:
        """Return the last finite value of a metric, or None."""
        values = self.all_values(metric)
        return values[-1] if values else None

    def best(self, metric: str, mode: str) -> Best | None:
        """Return the best value of a metric during the fit, else in an evaluation, or None."""
        for table in self.curves.values():
            curve = table[metric].finite if metric in table else None
            if curve is not None and len(curve.steps):
                place = int((np.argmax if mode == "max" else np.argmin)(curve.values))
                step = int(curve.steps[place])
                return Best(float(curve.values[place]), step, epoch_at(step, self.epoch_ends))
        return None

    def last_values(self) -> dict[str, float]:
        """Return the last value of every metric, of whatever command."""
        return {
            name: float(curve.values[-1])
            for table in self.curves.values()
            for name, curve in table.items()
        }

    def values_at(self, step: int) -> dict[str, float]:
        """Return the values that a fit logged after some steps."""
        found = {}
        for name, curve in self.curves.get("fit", {}).items():
            places = np.flatnonzero(curve.steps == step)
            if len(places) and math.isfinite(value := float(curve.values[places[-1]])):
                found[name] = value
        return found


def is_run(folder: Path) -> bool:
    """Return whether a folder holds the metrics of a run."""
    return any((folder / name).is_file() for name in FILES.values())


def find_runs(places: Sequence[str | Path]) -> list[Path]:
    """Return the run folders that are meant, each once, in order.

    Args:
        places: Run folders, folders of runs, checkpoints of runs, or patterns of those such as
            ``runs/classifier/2026-*``. A run without metrics is found by its folder alone.

    Raises:
        FileNotFoundError: There is no run.
    """
    found: dict[Path, None] = {}
    for place in map(Path, places):
        matches = [place] if place.exists() else map(Path, sorted(glob(str(place))))
        runs = [run for match in matches for run in _runs_at(match)]
        if not runs:
            raise FileNotFoundError(
                f"{place} is not a run folder: it holds no metrics.csv, nor do folders in it."
            )
        found |= dict.fromkeys(runs)
    return list(found)


def _runs_at(place: Path) -> list[Path]:
    # a file or a folder of a run stands for the run
    inside = place.is_file() or place.name == "checkpoints"
    for folder in (place, run_of(place), place.parent if inside else None):
        if folder is not None and is_run(folder):
            return [folder]
    below = [*place.glob("*"), *place.glob("*/*")] if place.is_dir() else []
    runs = sorted(folder for folder in below if is_run(folder))
    if not runs and (place / "config.yaml").is_file():
        return [place]
    return runs
