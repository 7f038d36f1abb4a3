"""Holds a run where a test can hurt it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

Place = Literal["fit", "sanity_check", "validate", "test", "end"]


class Waiting(Callback):
    """Waits at one place of a run until a file ``go`` is there.

    ``waiting.R`` says that rank R has come there; in an array, both names end in the task. A run
    that comes to the place again does not wait.

    Args:
        folder: Folder of these files.
        place: What the run does there.
        step: Optimizer steps before that.
        pause: Seconds that every training step takes besides.
    """

    def __init__(
        self, folder: str, place: Place = "fit", step: int = 7, pause: float = 0.0
    ) -> None:
        task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
        self.go = Path(folder) / f"go{task}"
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        self.here = Path(folder) / f"waiting{task}.{rank}"
        self.place = place
        self.step = step
        self.pause = pause

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        time.sleep(self.pause)
        self._wait(trainer, "fit")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._wait(trainer, "sanity_check" if trainer.sanity_checking else "validate")

    def on_test_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._wait(trainer, "test")

    def on_fit_end(self, trainer: Trainer, *_: Any) -> None:
        self._wait(trainer, "end")

    def _wait(self, trainer: Trainer, place: Place) -> None:
        if place != self.place or (
            place in ("fit", "validate") and trainer.global_step < self.step
        ):
            return
        self.here.touch()
        while not self.go.exists():
            time.sleep(0.05)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.here.unlink(missing_ok=True)
