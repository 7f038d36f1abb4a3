"""Studies whose fits are a function of their settings, so that a search takes milliseconds."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

import trimtab
from framework.tuning.driver import Driver
from framework.tuning.progress import Progress
from framework.tuning.settings import TuneSettings, read_settings
from framework.tuning.study import StudyFolder, pruner_of, sampler_of
from framework.tuning.trial_files import Report, TrialFiles
from framework.utilities.console import PlainConsole

BASE: dict[str, Any] = {
    "model": {"class_path": "Net", "init_args": {"lr": 0.1, "width": 8, "act": "relu"}},
    "data": {"class_path": "Points", "init_args": {"batch_size": 4}},
}
SPACE: dict[str, Any] = {
    "model.lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "model.width": {"type": "int", "low": 4, "high": 64, "step": 4},
    "model.act": {"type": "categorical", "choices": ["relu", "tanh", None]},
}


def study_settings(folder: Path, **given: Any) -> TuneSettings:
    """Return settings of a study of 25 random trials, changed as given."""
    section = {"space": SPACE, "metric": "val/loss", "mode": "min", "sampler": "random", **given}
    return read_settings({"folder": str(folder), **section}, "points")


def loss(values: Mapping[str, Any]) -> float:
    """Return a loss that is smallest at lr 0.01, width 32 and tanh."""
    net = values["model"]["init_args"]
    near = abs(net["lr"] - 0.01) + abs(net["width"] - 32) / 100
    return near + (0.0 if net.get("act") == "tanh" else 0.5)


class FakeChild:
    """A fit that has done its work when it is started, or waits until it is stopped."""

    def __init__(self, code: int | None, work: Callable[[], int | None] | None = None) -> None:
        self.code = code
        self.work = work
        self.stopped = False

    def poll(self) -> int | None:
        if self.work is not None and self.code is None:
            self.code = self.work()
        return self.code

    def stop(self) -> None:
        self.stopped = True
        self.code = 143

    def kill(self) -> None:
        self.code = -9


class FakeFits:
    """A launcher whose fits report the loss of their settings at once.

    Args:
        reports: Validations of each fit; the k-th is above the loss by 1 / k.
        before: Called with the number of a trial and its files before it begins; what it returns
            takes the place of the fit.
    """

    def __init__(
        self,
        reports: int = 3,
        before: Callable[[int, TrialFiles], FakeChild | None] = lambda number, files: None,
    ) -> None:
        self.reports = reports
        self.before = before
        self.started: list[int] = []
        self.variables: list[dict[str, str]] = []
        self.arguments: list[list[str]] = []

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> FakeChild:
        files = TrialFiles(output.parent)
        number = int(files.folder.name)
        self.started.append(number)
        self.variables.append(dict(variables))
        self.arguments.append(list(arguments))
        if (child := self.before(number, files)) is not None:
            return child
        value = loss(yaml.safe_load(files.config.read_text()))
        for step in range(1, self.reports + 1):
            files.report(Report(step - 1, 10 * step, value + 1 / step - 1 / self.reports))
        return FakeChild(0)


def search(
    settings: TuneSettings, launcher: Any, base: Mapping[str, Any] = BASE, **options: Any
) -> StudyFolder:
    """Run a study to its end; return it, free for the next search."""
    study = StudyFolder(settings, base, sampler_of, pruner_of)
    try:
        console = PlainConsole()
        console.file = StringIO()
        progress = Progress(settings, console)
        Driver(study, launcher, progress=progress, poll=0.001, **options).run()
    finally:
        study.release()
    return study


def came_to(study: StudyFolder) -> list[tuple[Any, ...]]:
    """Return what must be the same of two studies: everything but times."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.value,
            trial.params,
            trial.intermediate_values,
            trial.system_attrs,
            trial.user_attrs.get("reason"),
        )
        for trial in study.trials
    ]


class ForkedFits:
    """A launcher that fits in a process forked from this one, which has imported everything."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def __call__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> ForkedChild:
        self.started.append(list(arguments))
        return ForkedChild(arguments, variables, output)


class ForkedChild:
    """A fit in a forked process."""

    def __init__(
        self, arguments: Sequence[str], variables: Mapping[str, str], output: Path
    ) -> None:
        self.code: int | None = None
        self.process = os.fork()
        if self.process:
            return
        code = 1
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
            os.environ.update(variables)
            trimtab.main(["fit", *arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if process else None
        return self.code

    def stop(self) -> None:
        os.kill(self.process, signal.SIGKILL)

    def kill(self) -> None:
        self.stop()
