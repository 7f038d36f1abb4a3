"""Accuracy under attack, beside the accuracy of validation and test."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.attacks.attack import Attack
from framework.distributed.collectives import all_reduce_sum, shared_generator
from framework.metrics.accuracy_under_attack import correct_under_attack
from framework.objectives.errors import IncompatibleError
from framework.objectives.labels import IGNORE_INDEX
from framework.training.compatibility import require_alone
from framework.training.labeled_batches import inputs_and_labels
from framework.training.module import TrainingModule
from framework.utilities.checks import check_at_least
from framework.utilities.lightning_internals import datamodule_of
from framework.utilities.randomness import global_seed


class RobustAccuracy(Callback):
    """Logs ``val/robust_accuracy`` and ``test/robust_accuracy``, the accuracy under attack.

    Every row of an evaluation is attacked by ascending its cross-entropy. The attack sees the
    inputs in units of pixels: where the datamodule normalizes, its mean and standard deviation are
    handed to the attack. The same starts are drawn in every epoch and on any number of ranks, and
    a checkpoint may monitor the metric.

    It serves any ``LightningModule`` whose ``forward`` takes images and returns logits (B, C),
    with batches that are a dict with ``image`` and ``label`` or a tuple (image, label). In one's
    own loop ``framework.metrics.robust_accuracy`` does the same.

    An evaluation costs about 2 x ``attack.steps`` forward passes more.

    Args:
        attack: Attack on the images, such as ``PGDAttack``.
        every_n_epochs: Epochs between two attacks during ``fit``; ``validate`` and ``test`` always
            attack.
        limit_batches: Largest number of attacked batches of an evaluation; None for all.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: Predictions that are not class logits, batches of another form, or a
            second RobustAccuracy.

    Example:
        >>> from framework.attacks.pgd import PGDAttack
        >>> RobustAccuracy(PGDAttack(eps=0.1, steps=20)).attack.steps
        20
    """

    def __init__(
        self, attack: Attack, every_n_epochs: int = 1, limit_batches: int | None = None
    ) -> None:
        check_at_least(1, every_n_epochs=every_n_epochs, limit_batches=limit_batches)
        self.attack = attack
        self.every_n_epochs = every_n_epochs
        self.limit_batches = limit_batches
        self.seed = global_seed()
        self._correct_and_rows = torch.zeros(2, dtype=torch.int64)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no accuracy; learn how inputs are normalized."""
        require_alone(self, trainer.callbacks)  # type: ignore[attr-defined]
        if isinstance(pl_module, TrainingModule):
            shape = pl_module.prediction_shape
            # classes that a module which embeds is evaluated on are not those of its head
            if shape is None or len(shape) != 1 or pl_module.embedding_column is not None:
                raise IncompatibleError(
                    f"RobustAccuracy needs class logits of one fixed shape, which "
                    f"{type(pl_module).__name__} does not have."
                )
        normalize = getattr(datamodule_of(trainer), "normalize", None)
        if normalize is not None and not self.attack.mean:
            mean, std = (v.flatten().tolist() for v in (normalize.mean, normalize.std))
            self.attack = self.attack.normalized(mean, std)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._correct_and_rows = torch.zeros(2, dtype=torch.int64, device=pl_module.device)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack a batch and count."""
        beyond = self.limit_batches is not None and batch_idx >= self.limit_batches
        if beyond or not self._active(trainer):
            return
        (images, *others), labels = inputs_and_labels(pl_module, batch, "RobustAccuracy")
        with torch.inference_mode(False):
            # a tensor of inference mode cannot take part in a gradient
            others = [v.clone() if isinstance(v, Tensor) else v for v in others]

        def predict(inputs: Tensor) -> Tensor:
            return pl_module(inputs, *others)

        generator = shared_generator(self.seed, batch_idx, "robust_accuracy", images.device)
        right = correct_under_attack(predict, images, labels, self.attack, generator)
        correct = right.sum()
        self._correct_and_rows += torch.stack([correct, (labels != IGNORE_INDEX).sum()])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share over all ranks."""
        correct, rows = all_reduce_sum(self._correct_and_rows)
        if rows:
            stage = "test" if trainer.testing else "val"
            pl_module.log(f"{stage}/robust_accuracy", correct / rows)

    on_test_epoch_end = on_validation_epoch_end

    def _active(self, trainer: Trainer) -> bool:
        if trainer.sanity_checking:
            return False
        fitting = trainer.state.fn == "fit"
        return not fitting or (trainer.current_epoch + 1) % self.every_n_epochs == 0
