"""Base of callbacks that act after each optimizer step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class AfterStep(Callback):
    """Base of callbacks that act once after each optimizer step, of however many batches it is."""

    _step = 0

    @abstractmethod
    def after_step(self, pl_module: LightningModule) -> None:
        """Act on the module, of which a step has changed the parameters."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimizer steps from where the run stands."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Act, once per optimizer step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.after_step(pl_module)
