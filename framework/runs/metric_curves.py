"""Reads ``metrics.csv`` by columns, which takes a tenth of the memory of its rows."""

from __future__ import annotations

import csv
import io
import math
from array import array
from pathlib import Path

import numpy as np

from framework.figures.panels import Curve
from framework.runs.csv_logger import as_number
from framework.utilities.limits import read_text

BYTES_PER_CHARACTER = 16
"""Bytes that a character becomes at most: a step and a value for a digit and a comma."""


def read_curves(path: Path) -> dict[str, Curve]:
    """Return the curve of every column but ``step``; nothing where there is no file.

    A last line that a kill cut short is left out. Texts that are no numbers are NaN.

    Raises:
        ValueError: It is no table of metrics, or would take more memory than the limit.
    """
    if not path.is_file():
        return {}
    text = read_text(path, BYTES_PER_CHARACTER)
    try:
        rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        names = next(rows, [])
        where = names.index("step") if names else 0
        points = [(name, array("q"), array("d")) for name in names]
        for row in rows:
            if not row:
                continue
            # the row of step s holds what is known after s + 1 steps
            step = int(row[where]) + 1
            for (_, steps, values), cell in zip(points, row, strict=False):
                if cell:
                    steps.append(step)
                    values.append(as_number(cell))
    except (ValueError, IndexError, OverflowError, csv.Error):
        raise ValueError(
            f"{path} holds no metrics of a run: a table whose column 'step' holds whole numbers."
        ) from None
    return {
        name: Curve(np.frombuffer(steps, np.int64), np.frombuffer(values))
        for name, steps, values in points
        if name != "step" and steps
    }


def epoch_ends(curves: dict[str, Curve]) -> Curve:
    """Return how many steps were done at the end of each epoch, beginning with none.

    The last epoch, which may not be at its end, is as long as the one before it.

    Args:
        curves: Curves of ``metrics.csv``, with that of ``epoch``.
    """
    epochs = curves["epoch"].finite if "epoch" in curves else None
    if epochs is None or not len(epochs.steps):
        return Curve(np.zeros(1), np.zeros(1))
    # the last row of every epoch; a run that went on from an earlier step repeats none
    last = {float(e): int(s) for s, e in zip(epochs.steps, epochs.values, strict=True)}
    numbers, steps = np.array(list(last)), np.array(list(last.values()), np.float64)
    if len(steps) > 1 and numbers[-1] - numbers[-2] == 1:
        before = steps[-3] if len(steps) > 2 else 0.0
        steps[-1] = max(steps[-1], steps[-2] + (steps[-2] - before))
    order = np.argsort(steps, kind="stable")
    return Curve(np.append(0.0, steps[order]), np.append(0.0, numbers[order] + 1))


def epoch_at(step: float, ends: Curve) -> float:
    """Return how many epochs were done after some steps."""
    return float(np.interp(step, ends.steps, ends.values)) if math.isfinite(step) else math.nan
