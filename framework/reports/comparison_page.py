"""The page of several runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framework.reports.charts import comparison_charts, epochs, title
from framework.reports.comparison import Comparison
from framework.reports.equal_loss import EqualLoss
from framework.reports.pages import FILE_NAME, number, render
from framework.reports.run_page import state
from framework.reports.run_result import RunResult

MOST_SETTINGS = 60
"""Columns of settings."""


def comparison_page(runs: Sequence[RunResult], place: Path, equal: EqualLoss | None = None) -> str:
    """Return the page of several runs: their curves, and a table in which a person searches.

    Args:
        runs: Runs, two or more.
        place: Folder in which the page will lie, from which it leads to the pages of the runs.
        equal: The runs at equal loss, where they are compared so.
    """
    found = Comparison(runs)
    settings = list(dict.fromkeys(key for each in found.differences for key in each))
    shown = settings[:MOST_SETTINGS]
    rows = [
        {
            "number": number_,
            "name": found.names[i],
            "link": _link(runs[i].path, place),
            "state": state(runs[i]),
            "best": None if (best := found.best[i]) is None else best.value,
            "epoch": None if best is None else best.epoch,
            "last": found.last[i],
            "test": found.tests[i],
            "settings": [found.differences[i].get(key, "") for key in shown],
            "text": " ".join(f"{k}={v}" for k, v in found.differences[i].items()),
        }
        for number_, i in enumerate(found.order)
    ]
    ordered = [runs[i] for i in found.order]
    names = [found.names[i] for i in found.order]
    return render(
        "comparison.html",
        ("charts.js", "comparison.js"),
        title=f"{len(runs)} runs",
        metric=found.metric,
        mode=found.mode,
        test=found.test if found.has_test else "",
        settings=shown,
        equal=None if equal is None else _equal(equal),
        left_out=len(settings) - len(shown),
        rows=rows,
        show=number,
        data={
            "runs": [
                {"name": name, **epochs(run)} for name, run in zip(names, ordered, strict=True)
            ],
            "charts": comparison_charts(ordered, found.metric),
        },
    )


def _equal(found: EqualLoss) -> dict[str, Any]:
    """Return what the page shows of runs at equal loss."""
    rows = [
        ("optimizer steps", [str(group.steps) for group in found.groups]),
        *(
            (title(metric), [str(group.values.get(metric, "")) for group in found.groups])
            for metric in found.metrics
        ),
    ]
    return {
        "loss": title(found.metric),
        "level": f"{found.level:.4g}",
        "groups": [(group.name, len(group.runs)) for group in found.groups],
        "rows": rows,
        "notes": found.notes,
    }


def _link(run: Path, place: Path) -> str:
    """Return the way to a run's own page, or nothing where there is none."""
    page = run / FILE_NAME
    if not page.is_file():
        return ""
    return Path(os.path.relpath(page.resolve(), place.resolve())).as_posix()
