"""The files by which a trial and the command that started it talk; imports nothing large."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.utilities.files import open_in_place, write_text
from framework.utilities.json_files import read_json
from framework.utilities.limits import check_size, open_file

FOLDER, METRIC, WAITS = "TRIMTAB_TRIAL", "TRIMTAB_TRIAL_METRIC", "TRIMTAB_TRIAL_WAITS"
"""Environment variables of a trial: its folder, its metric, whether it may be pruned."""


@dataclass(frozen=True)
class Report:
    """What one validation of a trial measured.

    Args:
        epoch: Epochs that were finished before.
        step: Optimizer steps before.
        value: Metric.
    """

    epoch: int
    step: int
    value: float


@dataclass(frozen=True)
class TrialFiles:
    """The folder of a trial, which is the run folder of its fit as well.

    Args:
        folder: Folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     files = TrialFiles(Path(folder))
        ...     files.report(Report(epoch=0, step=10, value=0.5))
        ...     files.reports()
        [Report(epoch=0, step=10, value=0.5)]
    """

    folder: Path

    @property
    def config(self) -> Path:
        """Settings of the trial, laid over the study's config."""
        return self.folder / "trial.yaml"

    @property
    def output(self) -> Path:
        """What the fit printed."""
        return self.folder / "output.txt"

    @property
    def _reports(self) -> Path:
        return self.folder / "reports.jsonl"

    @property
    def _answer(self) -> Path:
        return self.folder / "answer.json"

    @property
    def _refusal(self) -> Path:
        return self.folder / "refusal.json"

    def report(self, report: Report) -> None:
        """Append what a validation measured."""
        if not self._reports.exists():
            write_text(self._reports, "")
        # a line that a kill cut short is not read
        with open_in_place(self._reports) as file:
            file.seek(0, os.SEEK_END)
            file.write(f"{json.dumps(vars(report))}\n".encode())

    def reports(self) -> list[Report]:
        """Return the validations so far; nothing where there is no file that can be read."""
        try:
            with open_file(self._reports) as file:
                check_size(self._reports, 64 * file.size)
                content = file.read()
        except (OSError, ValueError):
            return []
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        return [found for line in lines if (found := _read(line)) is not None]

    def answer(self, reports: int, stop: bool) -> None:
        """Say whether the trial is to stop, after so many of its reports."""
        write_text(self._answer, json.dumps({"reports": reports, "stop": stop}))

    def answered(self, reports: int) -> bool | None:
        """Return whether the trial is to stop; None where its last report has no answer yet."""
        with suppress(OSError, ValueError, TypeError, LookupError):
            content = read_json(self._answer)
            if content["reports"] >= reports:
                return bool(content["stop"])
        return None

    def refuse(self, message: str) -> None:
        """Say why no trial of the study can be measured."""
        write_text(self._refusal, json.dumps({"message": message}))

    def refusal(self) -> str | None:
        """Return why no trial of the study can be measured; None where nothing was said."""
        with suppress(OSError, ValueError, TypeError, LookupError):
            return str(read_json(self._refusal)["message"])
        return None

    def environment(self, metric: str, waits: bool) -> dict[str, str]:
        """Return the variables by which the fit knows that it is a trial.

        Args:
            metric: Metric that it reports.
            waits: Whether it waits for the answer to each of its reports.
        """
        return {
            FOLDER: str(self.folder.resolve()),
            METRIC: metric,
            WAITS: "1" if waits else "",
        }


def trial_of_environment(environ: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """Return the folder, the metric and the waiting of the trial that this process is; else None.

    Example:
        >>> trial_of_environment({})
    """
    if not environ.get(FOLDER) or not environ.get(METRIC):
        return None
    return {
        "folder": environ[FOLDER],
        "metric": environ[METRIC],
        "waits": bool(environ.get(WAITS)),
    }


def _read(line: bytes) -> Report | None:
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        content = json.loads(line)
        epoch, step, value = content["epoch"], content["step"], content["value"]
        known = type(epoch) is int and type(step) is int and isinstance(value, int | float)
        return Report(epoch, step, float(value)) if known else None
    return None


def best_value(reports: list[Report], mode: str) -> float | None:
    """Return the best finite value of a trial, None where it has none.

    Example:
        >>> best_value([Report(0, 1, 0.5), Report(1, 2, 0.75), Report(2, 3, 0.625)], "max")
        0.75
    """
    values = [report.value for report in reports if math.isfinite(report.value)]
    if not values:
        return None
    return max(values) if mode == "max" else min(values)
