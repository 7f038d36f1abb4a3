"""Several runs beside one another: how well they did, and in what their configs differ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from framework.reports.run_result import RunResult
from framework.reports.settings import differences, short_names


class Comparison:
    """What is compared of several runs.

    The metric is what the first run's best checkpoint was chosen by.

    Args:
        runs: Runs.
    """

    def __init__(self, runs: Sequence[RunResult]) -> None:
        chosen = (run.monitored for run in runs if run.monitored)
        self.metric, self.mode = next(chosen, ("val/loss", "min"))
        self.test = f"test/{self.metric.partition('/')[2]}"
        self.best = [run.best(self.metric, self.mode) for run in runs]
        self.last = [run.latest(self.metric) for run in runs]
        self.tests = [run.latest(self.test) for run in runs]
        self.names = short_names([run.path for run in runs])
        self.differences = differences([run.settings for run in runs])
        sign = -1 if self.mode == "max" else 1
        values = [math.inf if best is None else sign * best.value for best in self.best]
        self.order = sorted(range(len(runs)), key=lambda i: values[i])
        """Numbers of the runs, the best first."""

    @property
    def has_test(self) -> bool:
        """Whether any of the runs was tested."""
        return any(value is not None for value in self.tests)
