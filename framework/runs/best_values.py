"""The best value of each metric in a run, over every part of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from framework.runs.csv_logger import as_number, read_metrics
from framework.runs.panels import Layout


class BestValues:
    """Keeps the best value of every metric for which one direction is better.

    A run that goes on in another process knows those of before from ``metrics.csv``.

    Args:
        layout: Panels of the run, which say what is better.

    Example:
        >>> best = BestValues(Layout(monitored={"val/accuracy": "max"}))
        >>> best.improved({"val/accuracy": 0.5, "epoch": 0}), best.improved({"val/accuracy": 0.25})
        ({'best/val/accuracy': 0.5}, {})
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._best: dict[str, float] = {}

    def read(self, path: Path, below: float) -> None:
        """Take over the values of an earlier part.

        Args:
            path: The ``metrics.csv`` of the run.
            below: Optimizer step from which on the run is trained again.
        """
        _, rows = read_metrics(path)
        for row in rows:
            if row["step"] < below:
                self.improved(row)

    def improved(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return what is now the best, as ``best/<metric>``, and remember it."""
        found = {}
        for name, cell in metrics.items():
            direction, value = self.layout.direction(name), as_number(cell)
            if direction is None or math.isnan(value):
                continue
            before = self._best.get(name)
            better = before is None or (value > before if direction == "max" else value < before)
            if better:
                self._best[name] = found[f"best/{name}"] = value
        return found
