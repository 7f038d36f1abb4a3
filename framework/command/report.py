"""The table of a run's metrics, at its end and at any time after, and the pages of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.command.plain_parser import PlainParser
from framework.reports.summary import STAGES, by_stage
from framework.runs.run_folder import check_links
from framework.utilities.console import PlainConsole
from framework.utilities.files import WriteError


def main(args: Sequence[str]) -> None:
    """Print the table of a run or of several, and write a page with curves, pictures and tables.

    Args:
        args: Run folders, checkpoints in them, folders of runs, or patterns of those.

    Raises:
        FileNotFoundError: A place that holds no run.
        FileExistsError: The page would take the place of another file.
        ValueError: Runs that cannot be compared at equal loss.
        WriteError: The page cannot be written where ``--output`` says.
    """
    from framework.reports.equal_loss import TRAIN_LOSS
    from framework.reports.run_result import find_runs

    parser = PlainParser(
        "report", "Show what a run came to, or compare several, and write it as a page."
    )
    parser.add_argument(
        "run",
        nargs="+",
        help="run folder such as runs/classifier/TIME, a checkpoint in it, or a folder of runs",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="page that is written; default report.html in the run folder, or of several runs in "
        "the folder that holds them",
    )
    parser.add_argument(
        "--equal",
        metavar="METRIC",
        nargs="?",
        const=TRAIN_LOSS,
        help="compare the runs where this loss is equal, and not at their ends; default "
        "%(const)s. Runs that differ in their seeds alone are averaged",
    )
    parser.add_argument(
        "--at",
        metavar="VALUE",
        type=float,
        help="loss at which --equal compares; default the lowest that all runs reach",
    )
    given = parser.parse_args(args)
    if given.at is not None and given.equal is None:
        parser.error("--at is the loss of --equal, which is not given")
    runs = find_runs(given.run)
    if len(runs) == 1 and given.equal is None:
        _show(runs[0], given.output)
    else:
        _compare(runs, given.output, given.equal, given.at)


def _show(run: Path, output: Path | None) -> None:
    from framework.reports.pages import FILE_NAME
    from framework.reports.run_page import run_page
    from framework.reports.run_result import RunResult

    check_links(run)
    found = RunResult.read(run)
    console = PlainConsole()
    console.print(table(found.last_values()))
    for checkpoint in sorted(run.glob("checkpoints/*.ckpt")):
        console.print(f"checkpoint: {relative(checkpoint)}", soft_wrap=True)
    if curves := found.curves["fit"]:
        from framework.figures.curves import curves_figure
        from framework.figures.style import may_fail, save_png

        with may_fail("the learning curves"):
            save_png(curves_figure(curves), run / "figures" / "learning_curves.png")
    for figure in sorted(run.glob("figures/*.png")):
        console.print(f"figure: {relative(figure)}", soft_wrap=True)
    place = output or run / FILE_NAME
    beside = place.resolve().parent == run.resolve()
    _write(place, run_page(run, beside), output is not None)


def _compare(
    runs: Sequence[Path], output: Path | None, metric: str | None, level: float | None
) -> None:
    from framework.command.comparison import comparison_table
    from framework.command.equal_loss import equal_loss_table
    from framework.reports.comparison import Comparison
    from framework.reports.comparison_page import comparison_page
    from framework.reports.equal_loss import EqualLoss
    from framework.reports.pages import FILE_NAME
    from framework.reports.run_result import RunResult, is_run

    for run in runs:
        check_links(run)
    found = [RunResult.read(run) for run in runs]
    console = PlainConsole()
    equal = None if metric is None else EqualLoss(found, metric, level)
    if equal is None:
        console.print(comparison_table(Comparison(found)))
    else:
        console.print(equal_loss_table(equal))
        for note in equal.notes:
            console.print(note, soft_wrap=True)
    place = output
    if place is None:
        holder = Path(os.path.commonpath([run.resolve().parent for run in runs]))
        # runs from all over the disk have no folder of their own
        here = Path.cwd()
        if is_run(holder) or (not holder.is_relative_to(here) and holder in here.parents):
            holder = here
        place = holder / FILE_NAME
    _write(place, comparison_page(found, place.parent, equal), output is not None)


def _write(place: Path, page: str, must: bool) -> None:
    """Write a page; where the place was not asked for, say why that cannot be done."""
    from framework.reports.pages import write_page

    try:
        write_page(place, page)
    except (WriteError, FileExistsError) as error:
        if must:
            raise
        advice = "" if "--output" in str(error) else " Choose a place by --output FILE."
        sys.stderr.write(f"trimtab: {error}{advice}\n")
        return
    PlainConsole().print(f"report: {relative(place)}", soft_wrap=True)


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
