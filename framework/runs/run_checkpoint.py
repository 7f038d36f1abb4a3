"""A ModelCheckpoint whose files can all be resumed exactly."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from framework.utilities.lightning_internals import OpenModelCheckpoint, has_validated


class RunCheckpoint(OpenModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, except after the last batch of an epoch.

    A run that is resumed from there would skip the epoch's validation and its closing hooks, so a
    checkpoint that is due then is written when the epoch is closed. Its name in the checkpoint has
    the file name in it, since a run keeps a best and a last checkpoint.
    """

    _due = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up the folder without the warning that it is not empty."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, unless this is the last batch."""
        if trainer.is_last_batch:
            self._due = self.is_due_at(trainer.global_step)
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def can_judge(self, trainer: Trainer, values: dict[str, Any]) -> bool:
        """Return whether there has been a validation that could tell the best."""
        # a method with phases may have nothing to be judged by yet
        if self.monitor is not None and not getattr(trainer.lightning_module, "has_metrics", True):
            return False
        return self.monitor is None or self.monitor in values or has_validated(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was due at the last batch, or what is due at the epoch's end."""
        if self._due:
            self._due = False
            self.save_now(trainer)
            return
        super().on_train_epoch_end(trainer, pl_module)
