"""The page of a run, written by the run itself."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from framework.figures.style import may_fail
from framework.reports.executions import Execution, read_executions, write_execution
from framework.runs.job import restarts
from framework.runs.panels import Layout
from framework.runs.slurm_job import job_id
from framework.runs.stop_signals import Interrupted
from framework.utilities.checks import check_at_least
from framework.utilities.error_reason import reason_of

MOST_OF_TIME = 0.02
"""Share of the time of training that pages may take, as those of a million rows do."""


class ReportWriter(Callback):
    """Writes ``report.html`` into the run folder: curves, pictures and tables in one file.

    It is written at the end of ``fit``, ``validate`` and ``test``, however they end, and in between
    after a validation; ``trimtab report`` writes it again at any time. A page that cannot be
    written is named in a warning.

    Args:
        every_n_minutes: Least time in minutes between two pages during training.

    Raises:
        ValueError: ``every_n_minutes`` is negative.

    Example:
        >>> ReportWriter(every_n_minutes=10).every_n_minutes
        10
    """

    def __init__(self, every_n_minutes: float = 1.0) -> None:
        check_at_least(0, every_n_minutes=every_n_minutes)
        self.every_n_minutes = every_n_minutes
        self._written_at = 0.0
        self._cost = 0.0
        self._execution: Execution | None = None
        self._seconds_before = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier fit: what is refused before it trains leaves the page as it was."""
        self._execution = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when training began, and what is known of the parts before, where it goes on."""
        self._begin(trainer, pl_module)
        if self._execution is None:
            return
        before = read_executions(Path(trainer.default_root_dir)).get("fit")
        if trainer.global_step and before is not None:
            self._execution.parts = before.parts + 1
            self._seconds_before = before.seconds

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when a validation began that is the whole command."""
        if trainer.state.fn == "validate":
            self._begin(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note when the test began."""
        self._begin(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page, unless training goes on and it was done a short while ago."""
        if trainer.sanity_checking:
            return
        waited = time.monotonic() - self._written_at
        if trainer.state.fn != "fit":
            self._end(trainer, "finished")
        elif waited >= max(60 * self.every_n_minutes, self._cost / MOST_OF_TIME):
            self._end(trainer, "running")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of the test."""
        self._end(trainer, "finished")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page of the fit."""
        self._end(trainer, "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the page of a run that was stopped or has failed."""
        if isinstance(exception, (Interrupted, KeyboardInterrupt)):
            self._end(trainer, "stopped", _signal_of(exception))
        else:
            self._end(trainer, "failed", reason_of(exception))

    @rank_zero_only
    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        self._written_at = time.monotonic()
        self._seconds_before = 0.0
        self._execution = Execution(
            started=time.time(),
            device=_device(trainer),
            ranks=trainer.world_size,
            nodes=trainer.num_nodes,
            precision=str(trainer.precision),
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            host=platform.node(),
            process=os.getpid(),
            job=_job(),
        )

    @rank_zero_only
    def _end(self, trainer: Trainer, state: str, reason: str = "") -> None:
        folder, execution = Path(trainer.default_root_dir), self._execution
        command = trainer.state.fn
        if execution is None or command is None or not _has_metrics(folder):
            return
        from framework.reports.pages import FILE_NAME, write_page
        from framework.reports.run_page import run_page

        begun = time.monotonic()
        execution.state, execution.reason = state, reason
        execution.ended = time.time()
        execution.seconds = self._seconds_before + execution.ended - execution.started
        execution.step, execution.epoch = trainer.global_step, trainer.current_epoch
        execution.units |= _units(trainer)
        with may_fail("report.html", "written"):
            write_execution(folder, command.value, execution)
            write_page(folder / FILE_NAME, run_page(folder))
        self._written_at = time.monotonic()
        self._cost = self._written_at - begun


def _has_metrics(folder: Path) -> bool:
    from framework.reports.run_result import is_run

    return is_run(folder)


def _device(trainer: Trainer) -> str:
    import torch

    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type.upper()


def _units(trainer: Trainer) -> dict[str, str]:
    layout = Layout.of(trainer.lightning_module)
    found = {name: layout.panel(name) for name in trainer.callback_metrics}
    return {name: panel.unit for name, panel in found.items() if panel is not None and panel.unit}


def _job() -> dict[str, str]:
    """Return the number of a SLURM job, how often it was started again, and its machines."""
    if (number := job_id()) is None:
        return {}
    found = {"job": number, "restarts": str(restarts())}
    if nodes := os.environ.get("SLURM_JOB_NODELIST"):
        found["nodes"] = nodes[:200]
    return found


def _signal_of(exception: Any) -> str:
    import signal

    code = getattr(exception, "code", None)
    if isinstance(code, int) and code > 128:
        return signal.Signals(code - 128).name
    return "Ctrl-C"
