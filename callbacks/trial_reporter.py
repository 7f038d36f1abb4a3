"""A fit that is a trial of a study says how good it is, and stops when it promises too little."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from framework.distributed.collectives import gather
from framework.runs.stop_signals import command_signals
from framework.tuning.trial_files import Report, TrialFiles, trial_of_environment
from framework.utilities.nearest_names import nearest

ANSWER = 60.0
"""Seconds to wait for the search's answer, which may be busy or gone."""


class TrialReporter(Callback):
    """Writes a metric to the trial's folder after each validation, and stops when it is told to.

    ``trimtab tune`` adds it to the fits that it starts. Rank 0 writes and reads; all ranks stop at
    the same validation.

    Args:
        folder: Folder of the trial.
        metric: Metric that trials are compared by.
        waits: Whether each validation waits for the answer of the search, which may stop the trial.

    Raises:
        ValueError: No validation measures the metric, or it differs between the ranks.

    Example:
        >>> TrialReporter("runs/tune/digits/trials/0003", metric="val/accuracy").metric
        'val/accuracy'
    """

    def __init__(self, folder: str, metric: str, waits: bool = False) -> None:
        self.folder = folder
        self.metric = metric
        self.waits = waits
        self._reports = 0

    @property
    def files(self) -> TrialFiles:
        """The files of the trial."""
        return TrialFiles(Path(self.folder))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the reports of this fit."""
        self._reports = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metric, and stop on all ranks where the search says so."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        value = self._measured(trainer)
        stop = False
        if trainer.is_global_zero:
            self.files.report(Report(trainer.current_epoch, trainer.global_step, value))
            self._reports += 1
            stop = self.waits and self._is_told_to_stop()
        if self.waits and trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True

    def _measured(self, trainer: Trainer) -> float:
        """Return the metric, which must be there and the same on all ranks."""
        found = trainer.callback_metrics.get(self.metric)
        value = math.nan if found is None else float(found)
        own = torch.tensor([[value, found is None]], device=trainer.strategy.root_device)
        values, absent = gather(own).cpu().T
        message = ""
        if absent.all():
            known = sorted(trainer.callback_metrics)
            near = nearest(self.metric, known) or f"; there are {', '.join(known)}"
            message = f"tune.metric is {self.metric}, which no validation measures{near}."
        elif absent.any() or not values.isclose(values[0], rtol=1e-5, equal_nan=True).all():
            message = (
                f"tune.metric {self.metric} differs between ranks: log it with sync_dist=True."
            )
        if message and trainer.is_global_zero:
            self.files.refuse(message)
        if message:
            raise ValueError(message)
        return value

    def _is_told_to_stop(self) -> bool:
        deadline = time.monotonic() + ANSWER
        while (answer := self.files.answered(self._reports)) is None:
            signals = command_signals()
            if time.monotonic() > deadline or (signals is not None and signals.signum):
                return False
            time.sleep(0.02)
        return answer


def reporters_of_trial() -> list[Callback]:
    """Return the reporter of the trial that this process is; none in any other run."""
    found = trial_of_environment()
    return [] if found is None else [TrialReporter(**found)]
