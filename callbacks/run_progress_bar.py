"""A progress bar with the terms of the loss."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console

from framework.command.report import by_stage
from framework.runs.validated_metrics import ValidatedMetrics
from framework.training.module import TrainingModule


class RunProgressBar(RichProgressBar):
    """Shows epoch, iterations per second and this rank's terms of the loss.

    The terms are read, which makes a GPU wait, only as often as they are shown. Where the output is
    no terminal, such as a log file, there is one line per epoch instead.

    Args:
        refresh_rate: Updates per second; 0 shows nothing.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[RunProgressBar(refresh_rate=2)], logger=False)
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._is_terminal = Console().is_terminal
        self._shown_at = 0.0
        self._started_at = 0.0
        self._line = ""
        self._validated = ValidatedMetrics()

    @property
    def is_enabled(self) -> bool:
        """Whether there is a bar on this rank."""
        return super().is_enabled and self._is_terminal

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values beside the bar: Lightning's, and the terms of the loss."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        terms = pl_module.term_values if isinstance(pl_module, TrainingModule) else {}
        if terms:
            values = torch.stack([value.float() for value in terms.values()]).tolist()
            shown |= {name: f"{v:.4g}" for name, v in zip(terms, values, strict=True)}
        return shown

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the bar, at most ``refresh_rate`` times per second."""
        now = time.monotonic()
        if self.is_enabled and (
            trainer.is_last_batch or now - self._shown_at >= 1 / self.refresh_rate
        ):
            self._shown_at = now
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which weights the values belong to."""
        super().on_validation_end(trainer, pl_module)
        self._validated.note(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the epoch before, and start the clock of this one."""
        super().on_train_epoch_start(trainer, pl_module)
        self._print_line(trainer)
        self._started_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is an epoch to report; its means are not known yet."""
        super().on_train_epoch_end(trainer, pl_module)
        epochs = "" if trainer.max_epochs in (None, -1) else f"/{trainer.max_epochs - 1}"
        self._line = f"epoch {trainer.current_epoch}{epochs}"
        if self._started_at:
            speed = trainer.num_training_batches / (time.monotonic() - self._started_at)
            self._line += f", {speed:.3g} it/s"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch."""
        super().on_train_end(trainer, pl_module)
        self._print_line(trainer)

    def _print_line(self, trainer: Trainer) -> None:
        # a bar that is not disabled but has no terminal
        if self._line and super().is_enabled and not self._is_terminal:
            parts = [self._line]
            values = by_stage(trainer.callback_metrics)
            for stage in ("train", "val"):
                # a name with a slash is a reference value, the same in every epoch
                shown = [n for n, row in values.items() if stage in row and "/" not in n]
                named = [f"{n} {values[n][stage]:.4g}" for n in shown]
                if named:
                    older = stage == "val" and self._validated.has_older(trainer)
                    when = f" at step {self._validated.step}" if older else ""
                    parts.append(f"{stage}{when} {', '.join(named)}")
            Console(highlight=False).print(" | ".join(parts), soft_wrap=True)
        self._line = ""
