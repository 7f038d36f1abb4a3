"""Searches: asks for settings, starts the fits that try them, and notes what they came to."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from framework.runs.run_folder import numbered
from framework.runs.run_record import NAME as RUN_RECORD
from framework.tuning.child import Child, end, reason_of_failure
from framework.tuning.launcher import Launcher
from framework.tuning.progress import Progress
from framework.tuning.study import StudyFolder
from framework.tuning.study_record import BASE
from framework.tuning.trial_files import TrialFiles, best_value
from framework.tuning.trial_overlay import trial_overlay
from framework.utilities.files import (
    lock,
    make_folder,
    move,
    open_in_place,
    write_text,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

POLL = 0.05
"""Seconds between two looks at the trials that run."""
SAME_FAILURES, UNLUCKY_FAILURES = 3, 10
"""Trials that fail with the same message, before any ends well, after which nothing is to hope; the
second of failures that depend on the settings."""
_OF_SETTINGS = re.compile(r"\bnan\b|memory|took longer", re.IGNORECASE)
LEFT_BEHIND = 90.0
"""Seconds for a fit of a search that was killed to save its state and end."""


class StudyError(RuntimeError):
    """A search that cannot go on, whatever settings are tried."""


@dataclass
class Running:
    """A trial whose fit runs.

    Args:
        trial: Trial.
        files: Its files.
        child: Its fit.
        began: When it was started, by the clock that never goes back.
        answered: Reports that were answered.
        pruned: Whether it was told to stop.
    """

    trial: FrozenTrial
    files: TrialFiles
    child: Child
    began: float = field(default_factory=time.monotonic)
    answered: int = 0
    pruned: bool = False

    @property
    def seconds(self) -> float:
        """Time since its start."""
        return time.monotonic() - self.began


class Driver:
    """Runs the trials of a study, each as a fit in a process of its own.

    Args:
        study: Study.
        launcher: Function that starts a fit.
        arguments: Further arguments of each fit, such as ``--allow``.
        progress: What shows the trials to a person.
        poll: Seconds between two looks at the trials that run.
    """

    def __init__(
        self,
        study: StudyFolder,
        launcher: Launcher,
        arguments: tuple[str, ...] = (),
        progress: Progress | None = None,
        poll: float = POLL,
    ) -> None:
        self.study = study
        self.settings = study.settings
        self.launcher = launcher
        self.arguments = arguments
        self.progress = progress or Progress(self.settings)
        self.poll = poll
        self.running: list[Running] = []

    def run(self) -> None:
        """Run trials until the study has as many as it is to have.

        Raises:
            StudyError: The metric cannot be measured, or the first trials failed alike.
        """
        waiting = self.study.unfinished()
        try:
            while True:
                while len(self.running) < self.settings.jobs:
                    if waiting:
                        self._start(waiting.pop(0))
                    elif len(self.study.trials) < self.settings.trials:
                        self._start(self.study.ask())
                    else:
                        break
                if not self.running:
                    return
                if not self._look():
                    time.sleep(self.poll)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the fits that run; their trials are done again when the study goes on."""
        end([one.child for one in self.running])
        self.running.clear()

    def files(self, number: int) -> TrialFiles:
        """Return the files of a trial."""
        return TrialFiles(self.study.folder / "trials" / f"{number:04d}")

    def _start(self, trial: FrozenTrial) -> None:
        files = self.files(trial.number)
        _wait_for_end(files.folder)
        set_aside(files.folder, self.study.folder / "interrupted")
        make_folder(files.folder)
        overlay = trial_overlay(self.settings, self.study.base, trial.number, trial.params)
        write_text(files.config, yaml.safe_dump(overlay, sort_keys=False))
        variables = {
            **files.environment(self.settings.metric, waits=self.settings.pruner != "none"),
            "WANDB_RUN_GROUP": self.settings.name,
            "WANDB_NAME": f"{self.settings.name}/{trial.number:04d}",
            "WANDB_TAGS": f"trial-{trial.number}",
        }
        arguments = [
            *self.arguments,
            f"--config={self.study.folder / BASE}",
            f"--config={files.config}",
            f"--run_folder={files.folder}",
        ]
        child = self.launcher(arguments, variables, files.output)
        self.running.append(Running(trial, files, child))
        self.progress.started(trial)

    def _look(self) -> bool:
        """Look at all trials once; return whether one has ended."""
        ended = False
        for one in list(self.running):
            # before the reports are read, so that the last of them are
            code = one.child.poll()
            self._answer(one)
            if code is None and self._is_late(one):
                end([one.child], patience=10.0)
                self._fail(one, f"took longer than {self.settings.trial_timeout:g} seconds")
            elif code is None:
                continue
            else:
                self._end(one, code)
            ended = True
        return ended

    def _is_late(self, one: Running) -> bool:
        limit = self.settings.trial_timeout
        return limit is not None and one.seconds > limit

    def _values(self, one: Running, count: int | None = None) -> dict[int, float]:
        reports = one.files.reports()[:count]
        return {number + 1: report.value for number, report in enumerate(reports)}

    def _answer(self, one: Running) -> None:
        """Say after each report whether the trial is to stop."""
        values = self._values(one)
        if values and len(values) > one.answered:
            self.progress.reported(one.trial, values[len(values)], len(values))
        if self.settings.pruner == "none" or one.pruned:
            one.answered = len(values)
            return
        while one.answered < len(values) and not one.pruned:
            one.answered += 1
            seen = dict(list(values.items())[: one.answered])
            one.pruned = self.study.should_prune(one.trial, seen)
            one.files.answer(one.answered, one.pruned)

    def _end(self, one: Running, code: int) -> None:
        if (refusal := one.files.refusal()) is not None:
            self._fail(one, refusal)
            raise StudyError(refusal)
        reports = one.files.reports()
        value = best_value(reports, self.settings.mode)
        if code != 0:
            self._fail(one, reason_of_failure(code, one.files.output))
        elif not reports:
            reason = f"no validation of the fit measured {self.settings.metric}"
            self._fail(one, reason)
            raise StudyError(
                f"{reason}; let it validate, by trainer.limit_val_batches and max_epochs."
            )
        elif value is None:
            self._fail(one, f"{self.settings.metric} is {reports[-1].value}")
        else:
            self._note(one, value, pruned=one.pruned)

    def _fail(self, one: Running, reason: str) -> None:
        self._note(one, None, reason=reason)
        self._give_up_where_all_fail()

    def _note(
        self, one: Running, value: float | None, pruned: bool = False, reason: str = ""
    ) -> None:
        self.running.remove(one)
        values = self._values(one, one.answered if pruned else None)
        self.study.tell(one.trial, value, values, pruned, reason, one.seconds)
        self.progress.ended(self.study.trials[one.trial.number], self.study)

    def _give_up_where_all_fail(self) -> None:
        ended = [trial for trial in self.study.trials if trial.state.is_finished()]
        reasons = [str(trial.user_attrs.get("reason", "")) for trial in ended]
        count = UNLUCKY_FAILURES if _OF_SETTINGS.search(reasons[-1]) else SAME_FAILURES
        if len(ended) >= count and len(set(reasons[-count:])) == 1 and all(reasons):
            alike = "all" if len(ended) == count else f"the last {count} of them"
            raise StudyError(
                f"the first {len(ended)} trials failed, {alike} by the same error: "
                f"{reasons[-1].rstrip('.')}; see {self.files(ended[-1].number).output}."
            )


def set_aside(folder: Path, place: Path) -> None:
    """Move a folder that a stopped fit has left: what it holds is not of the next one.

    Args:
        folder: Folder of the fit.
        place: Folder for such folders.
    """
    if folder.exists():
        move(folder, next(free for free in numbered(place / folder.name) if not free.exists()))


def _wait_for_end(folder: Path, patience: float = LEFT_BEHIND) -> None:
    """Wait for a fit that a killed search left, which holds its folder until it ends.

    Raises:
        StudyError: It goes on.
    """
    record = folder / RUN_RECORD
    deadline = time.monotonic() + patience
    while record.is_file() and not record.is_symlink():
        with open_in_place(record) as file:
            try:
                if lock(file):
                    return
            except OSError:
                return  # the disk knows no locks
        if time.monotonic() > deadline:
            raise StudyError(f"{folder} is still trained in by another process: stop it first.")
        time.sleep(0.2)
