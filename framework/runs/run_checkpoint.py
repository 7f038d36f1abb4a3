"""A ModelCheckpoint whose files can all be resumed exactly."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, except after the last batch of an epoch.

    A run that is resumed from there would skip the epoch's validation and its closing hooks, so a
    checkpoint that is due then is written when the epoch is closed.
    """

    _due = False

    @property
    def state_key(self) -> str:
        """Told apart by the file name too: a run keeps a best and a last checkpoint."""
        return self._generate_state_key(
            filename=self.filename,
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Resolve the folder; that a resumed run finds files of its own there is no news."""
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
            steps = self._every_n_train_steps
            self._due = steps >= 1 and trainer.global_step % steps == 0
            return
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _save_topk_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Save the best, once there has been a validation that could tell."""
        # a method with phases may have nothing to be judged by yet
        if self.monitor is not None and not getattr(trainer.lightning_module, "has_metrics", True):
            return
        validated = trainer.fit_loop.epoch_loop.val_loop._has_run
        if self.monitor is None or self.monitor in monitor_candidates or validated:
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was due at the last batch, or what is due at the epoch's end."""
        if self._due:
            self._due = False
            candidates = self._monitor_candidates(trainer)
            self._save_topk_checkpoint(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
            return
        super().on_train_epoch_end(trainer, pl_module)
