"""The page of one run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framework.reports.charts import epochs, run_charts
from framework.reports.class_tables import read_tables
from framework.reports.executions import Execution
from framework.reports.pages import duration, moment, number, render
from framework.reports.pictures import CURVES, read_pictures
from framework.reports.run_result import Best, RunResult
from framework.reports.settings import class_name
from framework.reports.summary import by_stage
from framework.runs.run_folder import check_links

LINKS = {
    "features.html": "the contexts in which features are most active",
    "predictions.csv": "predictions",
    "predictions.parquet": "predictions",
    "metrics.csv": "all logged values",
    "config.yaml": "the whole config",
}
"""Files of a run folder that a page names, and what they hold."""


class Fact(NamedTuple):
    """A line of what matters of a run.

    Args:
        name: What it is.
        value: Value as it is shown.
        note: What else there is to say.
    """

    name: str
    value: str
    note: str = ""


def run_page(path: Path, beside: bool = True) -> str:
    """Return the page of a run.

    Args:
        path: Run folder, which may be anybody's.
        beside: Whether the page will lie in it, so that it may lead to its files.

    Raises:
        ValueError: A link leads out of the folder, or a file of it is of another form.
    """
    check_links(path)
    run = RunResult.read(path)
    tables = read_tables(path)
    pictures, left_out = read_pictures(path)
    # what a table says is not drawn as well
    said = {CURVES, *(table.name for table in tables if not table.left_out)}
    best = run.best(*run.monitored) if run.monitored else None
    model = run.config.get("model")
    kind = class_name(model.get("class_path", "")) if isinstance(model, dict) else ""
    rows = _rows(run, best)
    return render(
        "run.html",
        ("charts.js", "run.js"),
        title=" / ".join(path.resolve().parts[-2:]),
        kind=kind,
        state=state(run),
        facts=[*_facts(run, best)],
        rows=rows,
        tested=any("test" in stages for _, stages in rows),
        best=best,
        notes=[*_notes(run)],
        tables=tables,
        pictures=[picture for picture in pictures if picture.name not in said],
        curves=next((picture for picture in pictures if picture.name == CURVES), None),
        left_out=left_out,
        config=run.config,
        commands=_commands(path),
        links=[(n, t) for n, t in LINKS.items() if (path / n).is_file()] if beside else [],
        data={"runs": [{"name": "", **epochs(run)}], "charts": run_charts(run)},
    )


def state(run: RunResult) -> tuple[str, str]:
    """Return the state of a run's training in a word, and what there is to say about it."""
    step, _ = run.progress
    found = run.executions.get("fit")
    if found is None or not found.state:
        return "", f"step {step:,}" if step else ""
    step = max(step, found.step)
    if found.state == "running":
        if found.is_gone:
            return "failed", f"after step {step:,}: its process is gone without a word"
        return "running", f"at step {step:,} when this was written"
    reason = f": {found.reason}" if found.reason else ""
    return found.state, f"after step {step:,}{reason}"


def _facts(run: RunResult, best: Best | None) -> Iterator[Fact]:
    """Yield what matters of a run, the most important first."""
    if run.monitored:
        metric, mode = run.monitored
        if best is not None:
            note = f"{'largest' if mode == 'max' else 'least'}, after {_epochs(best.epoch)}"
            yield Fact(f"best {metric}", number(best.value), note)
            fitted = run.curves.get("fit", {})
            if metric in fitted:
                yield Fact(f"last {metric}", number(float(fitted[metric].values[-1])))
        tested = f"test/{metric.partition('/')[2]}"
        if (value := run.latest(tested)) is not None:
            yield Fact(tested, number(value))
    else:
        # no metric matters more than another
        latest = run.last_values()
        for name in [name for name in latest if name.startswith("val/")][:3]:
            yield Fact(f"last {name}", number(latest[name]))
    step, epoch = run.progress
    if step:
        yield Fact("optimizer steps", number(step), _epochs(epoch))
    found = run.executions.get("fit") or next(iter(run.executions.values()), None)
    if found is not None:
        yield from _execution_facts(found)
    if "seed_everything" in run.settings:
        yield Fact("seed", str(run.settings["seed_everything"]))


def _execution_facts(found: Execution) -> Iterator[Fact]:
    if found.seconds > 0:
        starts = f"in {found.parts} starts" if found.parts > 1 else ""
        yield Fact("time", duration(found.seconds), starts)
    if started := moment(found.started) if found.started else "":
        day, hour, zone = started.split(" ", 2)
        yield Fact("started", f"{day} {hour}", f"{zone}, on {found.host}" if found.host else zone)
    if found.device:
        many = f"{found.ranks} ranks" if found.ranks > 1 else ""
        nodes = f" on {found.nodes} nodes" if found.nodes > 1 else ""
        yield Fact("device", found.device, f"{many}{nodes}")
    if found.parameters:
        yield Fact("parameters", number(found.parameters), found.precision)
    if found.job:
        text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.job.items())
        yield Fact("SLURM", text)


def _epochs(epoch: float) -> str:
    shown = f"{epoch:.0f}" if math.isclose(epoch, round(epoch), abs_tol=0.005) else f"{epoch:.1f}"
    return f"{shown} epoch" if shown == "1" else f"{shown} epochs"


def _rows(run: RunResult, best: Best | None) -> list[tuple[str, dict[str, float]]]:
    """Return every metric with its last value by stage, and that of the best checkpoint."""
    values = by_stage(run.last_values())
    at_best = by_stage(run.values_at(best.step)) if best is not None else {}
    for name, stages in values.items():
        if "val" in at_best.get(name, {}):
            stages["best"] = at_best[name]["val"]
    return [*values.items()]


def _notes(run: RunResult) -> Iterator[str]:
    """Yield what a reader of the curves should know."""
    for name, curve in run.curves.get("fit", {}).items():
        skipped = np.flatnonzero(~np.isfinite(curve.values))
        if len(skipped) and name != "epoch":
            first = int(curve.steps[skipped[0]])
            yield (
                f"{name} is not finite in {len(skipped):,} of {len(curve.values):,} rows, first at "
                f"step {first:,}; these are left out."
            )


def _commands(path: Path) -> list[tuple[str, str]]:
    place = shlex.quote(str(path))
    if not any(path.glob("checkpoints/*.ckpt")):
        return [("Show this again", f"trimtab report {place}")]
    return [
        ("Go on with the training", f"trimtab fit --ckpt_path {place}"),
        ("Test the best checkpoint", f"trimtab test --ckpt_path {place}"),
        ("Predict with it", f"trimtab predict --ckpt_path {place}"),
        ("Show this again", f"trimtab report {place}"),
    ]
