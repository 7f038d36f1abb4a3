"""The readers of a study's folder: its journal, what it was begun with, what its trials report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from framework.command.tune_arguments import take_tune, without_sections
from framework.tuning.child import reason_of_failure
from framework.tuning.study import StudyFolder
from framework.tuning.trial_files import Report, TrialFiles
from tests.helpers.studies import BASE, FakeFits, search, study_settings
from tests.hostile.mutations import TEXT, change_lines, change_yaml
from tests.hostile.registry import JSON, YAML, reader

optuna.logging.set_verbosity(optuna.logging.WARNING)
LINES = JSON


def _journal() -> dict[str, bytes]:
    search(study_settings(Path.cwd() / "study", trials=3), FakeFits(reports=2))
    return {"study/journal.log": Path("study", "journal.log").read_bytes()}


def _beside() -> dict[str, bytes]:
    files = _journal()
    names = ("study/study.yaml", "study/base.yaml")
    return files | {name: Path(name).read_bytes() for name in names}


def _open(folder: Path) -> Any:
    from optuna.samplers import RandomSampler

    study = StudyFolder(
        study_settings(folder / "study", trials=3), BASE, lambda settings, number: RandomSampler()
    )
    try:
        return [study.best(), study.ask()]
    finally:
        study.release()


@reader("journal of a study", _journal, ["framework.tuning.journal:_check_lines"], LINES)
def _(folder: Path) -> Any:
    return _open(folder)


@reader(
    "beginning of a study",
    _beside,
    ["framework.tuning.study_record:changed"],
    YAML,
)
def _(folder: Path) -> Any:
    return _open(folder)


def _trial() -> dict[str, bytes]:
    files = TrialFiles(Path.cwd())
    for step in range(3):
        files.report(Report(step, 10 * step, 1 / (step + 1)))
    files.answer(3, stop=False)
    files.refuse("no such metric")
    files.output.write_text("one line\ntrimtab: The loss is nan.\n")
    return {path.name: path.read_bytes() for path in Path.cwd().iterdir()}


@reader(
    "files of a trial",
    _trial,
    [
        "framework.tuning.trial_files:TrialFiles.reports",
        "framework.tuning.trial_files:TrialFiles.answered",
        "framework.tuning.trial_files:TrialFiles.refusal",
        "framework.tuning.trial_files:_read",
        "framework.tuning.child:_last_words",
    ],
    LINES,
)
def _(folder: Path) -> Any:
    files = TrialFiles(folder)
    failure = reason_of_failure(1, files.output)
    assert "\n" not in failure
    return files.reports(), files.answered(3), files.refusal(), failure


def _search() -> dict[str, bytes]:
    text = "tune:\n  space:\n    model.lr: {type: float, low: 0.1, high: 1.0}\n  trials: 3\n"
    return {"own.yaml": text.encode(), "space.yaml": b"model.lr: {type: float, low: 0.1}\n"}


@reader(
    "config of a search",
    _search,
    [
        "framework.command.tune_arguments:without_sections",
        "framework.command.tune_arguments:take_tune",
        "framework.command.tune_arguments:_space_of_file",
    ],
    [change_yaml, *(change for change in TEXT if change is not change_lines)],
)
def _(folder: Path) -> Any:
    scratch = folder / "scratch"
    return (
        without_sections([f"--config={folder / 'own.yaml'}"], scratch),
        take_tune([f"--tune.space={folder / 'space.yaml'}", "--tune.trials=4"]),
    )
