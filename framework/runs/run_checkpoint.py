"""A ModelCheckpoint whose files can all be resumed exactly."""

from __future__ import annotations

import os
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from framework.runs.checkpoint_io import use_atomic_checkpoints
from framework.runs.own_checkpoints import own_checkpoints
from framework.runs.validated_metrics import ValidatedMetrics
from framework.utilities.lightning_internals import (
    OpenModelCheckpoint,
    has_validated,
    is_accumulating,
    log_closed_epoch,
    measured_now,
    place_of_the_step,
    stops_after_epoch,
    stops_now,
    validation_follows,
)


class RunCheckpoint(OpenModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, of which every file is what its name says.

    A file with a score holds the weights that were validated with it: they are compared at every
    validation, also inside an epoch. Files are written where a resumed run can go on exactly:
    after the optimizer's step, after the validation and the closing hooks that belong to a batch.
    When a fit ends well, one without ``monitor`` holds its last state. Where ``save_top_k`` keeps
    several, they are named ``<filename>-step<step>-<score>``, and ``<filename>`` is the best of
    them. The name in the checkpoint has the file name in it, since a run keeps a best and a last
    one.

    Raises:
        ValueError: Two of them would write the same file.
    """

    _due = False
    _validated: ValidatedMetrics

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up the folder without the warning that it is not empty."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Checkpoint directory .* is not empty")
            super().setup(trainer, pl_module, stage)
        use_atomic_checkpoints(trainer)
        self._due = False
        self._validated = ValidatedMetrics()
        for other in trainer.checkpoint_callbacks:
            if isinstance(other, RunCheckpoint) and other is not self:
                self._check_files(other)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, whose files are kept where they are those of this folder."""
        super().load_state_dict(own_checkpoints(self, state_dict))

    def _check_files(self, other: RunCheckpoint) -> None:
        if shared := self._fixed_files & other._fixed_files:
            raise ValueError(
                f"Two checkpoints would write {min(shared)}: give each a `filename` of its own, "
                f"and leave `save_last` off, as the one with the filename 'last' is the last."
            )

    @property
    def _fixed_files(self) -> set[str]:
        """Paths that are written over and over."""
        names = {self.filename or ""} | ({self.CHECKPOINT_NAME_LAST} if self.save_last else set())
        folder = os.path.realpath(self.dirpath or "")
        return {os.path.join(folder, f"{n}.ckpt") for n in names if n and "{" not in n}

    @property
    def _keeps_several(self) -> bool:
        return self.save_top_k not in (0, 1) and "{" not in (self.filename or "{")

    def format_checkpoint_name(
        self,
        metrics: dict[str, Tensor],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """Return the path of a file; where there are several, with its step and score."""
        if filename is None and self._keeps_several:
            score = "" if self.monitor is None else f"-{float(metrics[self.monitor]):.4g}"
            filename = f"{self.filename}-step{int(metrics['step'])}{score}"
        return super().format_checkpoint_name(metrics, filename, ver, prefix)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, unless more belongs to this batch than its step."""
        if is_accumulating(trainer):
            return
        ends = stops_now(trainer) and not self.is_switched_off
        self._due = self._due or ends or self.is_due_after_batch(trainer)
        if self._due and not trainer.is_last_batch and not validation_follows(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was due, or may be the best, unless the epoch's end comes at once."""
        self._validated.note(trainer)
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.is_last_batch:
            return
        ends = stops_now(trainer) and not self.is_switched_off
        judged = self.monitor is not None and self.is_due_in_epoch(trainer.current_epoch)
        if self._due or ends or judged:
            with place_of_the_step(trainer):
                self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what was due at the last batch, or what is due at the epoch's end."""
        ends = stops_after_epoch(trainer) and not self.is_switched_off
        if not trainer.is_last_batch:
            # stopped inside the epoch, and saved there: from here the rest would be left out
            if self.monitor is None and ends:
                self._save(trainer)
            return
        if self._due or ends or self.is_due_in_epoch(trainer.current_epoch):
            self._save(trainer, epoch_is_over=True)

    def _save(self, trainer: Trainer, epoch_is_over: bool = False) -> None:
        if self.is_saved(trainer):
            self._due = False
        elif self._can_judge(trainer, epoch_is_over):
            self._due = False
            try:
                if epoch_is_over:
                    # a run that goes on from here does not close this epoch once more
                    log_closed_epoch(trainer)
            finally:
                self._save_best_and_last(trainer)

    def _save_best_and_last(self, trainer: Trainer) -> None:
        self._forget_removed(trainer)
        best = self.best_model_path
        self.save_now(trainer)
        if self._keeps_several and self.best_model_path != best:
            path = super().format_checkpoint_name({}, self.filename)
            trainer.save_checkpoint(path, self.save_weights_only)

    def _forget_removed(self, trainer: Trainer) -> None:
        """Let the next best one be kept, where somebody removed the best one's file."""
        for path in list(self.best_k_models):
            if not self.file_exists(path, trainer):
                del self.best_k_models[path]

    def _can_judge(self, trainer: Trainer, epoch_is_over: bool) -> bool:
        """Return whether there is a score, and it is that of the present weights."""
        if self.monitor is None:
            return True
        # a method with phases may have nothing to be judged by yet
        if not getattr(trainer.lightning_module, "has_metrics", True):
            return False
        if self.monitor not in trainer.callback_metrics:
            # Lightning then says which metrics there are
            return epoch_is_over and has_validated(trainer)
        if self._validated.is_older(self.monitor, trainer):
            return False
        return epoch_is_over or self.monitor in measured_now(trainer)
