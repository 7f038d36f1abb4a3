"""The trials of a study as a table, on the screen and as a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from rich.box import SIMPLE_HEAD
from rich.table import Table

from framework.tuning.short_names import short_names
from framework.utilities.files import write_atomically

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


def best_number(study: Study) -> int | None:
    """Return the number of the best complete trial, or None before there is one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial.number if complete else None


def seconds_of(trial: FrozenTrial) -> float | None:
    """Return the time that a trial took, which ``seconds`` says where it was done in two runs."""
    if (noted := trial.user_attrs.get("seconds")) is not None:
        return float(noted)
    return trial.duration.total_seconds() if trial.duration else None


def trials_table(study: Study, metric: str, best: int | None = None) -> Table:
    """Return all trials as a table; a star marks the best one.

    Args:
        study: Optuna's study.
        metric: Name of the metric that is tuned.
        best: Number of the trial to mark; default the one with the best value.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.add_trial(optuna.create_trial(value=0.5))
        >>> trials_table(study, "val/loss").row_count
        1
    """
    names, best = _parameters(study), best_number(study) if best is None else best
    table = Table(box=SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column(metric, justify="right")
    for name in short_names(names):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("time", justify="right")
    for trial in study.get_trials(deepcopy=False):
        is_best = trial.number == best
        table.add_row(
            f"{trial.number}{' *' if is_best else '  '}",
            STATES[trial.state],
            _text(trial.value),
            *(_text(trial.params.get(name)) for name in names),
            _duration(trial),
            style="bold" if is_best else "" if trial.state == TrialState.COMPLETE else "dim",
        )
    return table


def write_trials(study: Study, path: Path, best: int | None = None) -> None:
    """Write all trials as CSV, whole or not at all.

    A row has ``trial``, ``state``, ``value``, ``best`` (1 for the best trial), ``seconds``, why it
    failed (``reason``) and the parameters under their names. Numbers are written in full.

    Args:
        study: Optuna's study.
        path: File, which is replaced.
        best: Number of the trial to mark; default the one with the best value.
    """
    names, best = _parameters(study), best_number(study) if best is None else best
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", "best", "seconds", "reason", *names])
    for trial in study.get_trials(deepcopy=False):
        known = (trial.params.get(name) for name in names)
        best_mark = int(trial.number == best)
        ended = [seconds_of(trial), trial.user_attrs.get("reason")]
        row = [trial.number, STATES[trial.state], trial.value, best_mark, *ended, *known]
        writer.writerow(["" if cell is None else cell for cell in row])
    content = text.getvalue().encode()
    write_atomically(path, lambda file: file.write(content))


def _parameters(study: Study) -> list[str]:
    names = (name for trial in study.get_trials(deepcopy=False) for name in trial.params)
    return list(dict.fromkeys(names))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(trial: FrozenTrial) -> str:
    seconds = seconds_of(trial)
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
