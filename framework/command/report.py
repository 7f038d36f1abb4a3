"""The table of a run's metrics, at its end and at any time after; see also ``comparison``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.command.plain_parser import PlainParser
from framework.runs.csv_logger import as_number, read_metrics
from framework.runs.run_folder import check_links
from framework.utilities.console import PlainConsole

STAGES = ("train", "val", "test")


def main(args: Sequence[str]) -> None:
    """Print the table of a run and draw its learning curves again, or compare several runs.

    Args:
        args: Run folders, checkpoints in them, folders of runs, or patterns of those.

    Raises:
        FileNotFoundError: A place that holds no run.
    """
    from framework.command.comparison import RunResult, comparison, find_runs

    parser = PlainParser("report", "Show what a run came to, or compare several.")
    parser.add_argument(
        "run",
        nargs="+",
        help="run folder such as runs/classifier/TIME, a checkpoint in it, or a folder of runs",
    )
    runs = find_runs(parser.parse_args(args).run)
    if len(runs) == 1:
        _show(runs[0])
    else:
        PlainConsole().print(comparison([RunResult.read(run) for run in runs]))


def _show(run: Path) -> None:
    curves = read_metrics(run / "metrics.csv")[1]
    evaluations = [read_metrics(run / f"metrics_{c}.csv")[1] for c in ("validate", "test")]
    latest: dict[str, Any] = {}
    for row in [row for rows in (curves, *evaluations) for row in rows]:
        latest |= {name: value for name, value in row.items() if value not in ("", None)}
    console = PlainConsole()
    console.print(table(latest))
    for checkpoint in sorted(run.glob("checkpoints/*.ckpt")):
        console.print(f"checkpoint: {relative(checkpoint)}", soft_wrap=True)
    if curves:
        check_links(run)
        from framework.figures.curves import learning_curves
        from framework.figures.style import may_fail, save_png

        with may_fail("the learning curves"):
            save_png(learning_curves(curves), run / "figures" / "learning_curves.png")
    for figure in sorted(run.glob("figures/*.png")):
        console.print(f"figure: {relative(figure)}", soft_wrap=True)


def by_stage(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return {name: {stage: value}} of the epoch's values, the loss first.

    A term that is the whole loss is left out.
    """
    values: dict[str, dict[str, float]] = {}
    for logged, value in metrics.items():
        stage, _, name = logged.partition("/")
        if stage == "train":
            name, dot, rest = name.rpartition("_epoch")
            if not dot or rest:
                continue
        if stage in STAGES and name:
            values.setdefault(name, {})[stage] = as_number(value)
    loss = values.pop("loss", {})
    parts = {name: row for name, row in values.items() if row != loss}
    return ({"loss": loss} if loss else {}) | parts


def table(metrics: Mapping[str, Any]) -> Table | str:
    """Return the epoch's values as a table with one column per stage, or nothing."""
    values = by_stage(metrics)
    if not values:
        return ""
    stages = [stage for stage in STAGES if any(stage in row for row in values.values())]
    made = Table(box=SIMPLE_HEAD)
    made.add_column("metric")
    for stage in stages:
        made.add_column(stage, justify="right")
    for name, row in values.items():
        made.add_row(name, *(f"{row[stage]:.4g}" if stage in row else "" for stage in stages))
    return made


def relative(path: str | Path) -> str:
    """Return a path as seen from the current folder, where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)
