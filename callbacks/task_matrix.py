"""Accuracy on each task while tasks are learned one after the other, and what was forgotten."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.metrics.average_forgetting import average_forgetting_of
from framework.objectives.errors import IncompatibleError
from framework.runs.panels import Panel
from framework.training.labeled_batches import inputs_and_labels
from framework.training.module import TrainingModule
from framework.utilities.lightning_internals import datamodule_of


class TaskMatrix(Callback):
    """Logs the accuracy on each task of ``ClassIncremental``, the mean, and what was forgotten.

    Every validation of a fit measures ``val/task_0``, ``val/task_1`` ..., the shares of right rows
    among those of each task, where a model predicts among all classes; ``val/average_accuracy`` is
    their mean. The values of a task's last validation are its row of the task matrix R, of which
    ``val/forgetting`` is the average forgetting of the tasks learned before the present one
    (arXiv:2507.12224), from the second task on. In one's own loop
    ``framework.metrics.AverageForgetting`` does the same.

    It costs one forward pass of the validation set. Any ``LightningModule`` whose ``forward``
    returns logits (B, C) is served.

    Raises:
        IncompatibleError: The datamodule is no ``ClassIncremental``, or batches of another form.

    Example:
        >>> TaskMatrix().matrix
        tensor([], size=(0, 0))
    """

    panels = (
        Panel("Accuracy on each task", ("val/task_*",), "share of the samples", best="max"),
        Panel("All tasks", ("val/average_accuracy", "val/forgetting"), "share of the samples"),
    )

    def __init__(self) -> None:
        # right rows and rows, by the task learned last and the task of the row
        self._counts = torch.zeros(2, 0, 0, dtype=torch.int64)
        self._batches = torch.zeros(2, 0, dtype=torch.int64)
        self._task_of_class = torch.zeros(0, dtype=torch.int64)

    @property
    def matrix(self) -> Tensor:
        """Accuracies R (T, T) on task j after task i, NaN where not measured."""
        correct, rows = self._counts
        return correct.float() / rows

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Learn the classes of each task."""
        data = datamodule_of(trainer)
        tasks: list[list[int]] | None = getattr(data, "tasks", None)
        if not tasks or not hasattr(data, "task_of_epoch"):
            raise IncompatibleError(
                f"TaskMatrix needs the tasks of ClassIncremental, which {type(data).__name__} "
                "does not have."
            )
        classes = max(label for task in tasks for label in task) + 1
        self._task_of_class = torch.full((classes,), -1)
        for number, task in enumerate(tasks):
            self._task_of_class[task] = number
        if self._counts.shape[1] != len(tasks):
            self._counts = torch.zeros(2, len(tasks), len(tasks), dtype=torch.int64)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        self._batches = torch.zeros_like(self._counts[:, 0])

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the right rows of each task."""
        if not _counts(trainer):
            return
        inputs, label = inputs_and_labels(pl_module, batch, "TaskMatrix")
        output = pl_module(*inputs)
        if isinstance(pl_module, TrainingModule):
            output = pl_module.predictions_of(output)
        label, right = label.cpu(), (output.argmax(1) == label).cpu()
        known = (label >= 0) & (label < len(self._task_of_class))
        task = self._task_of_class[label[known]]
        right = right[known][task >= 0]
        task = task[task >= 0]
        tasks = len(self._batches[0])
        found = [task[right].bincount(minlength=tasks), task.bincount(minlength=tasks)]
        self._batches += torch.stack(found)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies over all ranks, and the forgetting."""
        if not _counts(trainer):
            return
        with torch.inference_mode(False):
            counts = all_reduce_sum(self._batches.to(pl_module.device)).cpu().clone()
            learned = datamodule_of(trainer).task_of_epoch(trainer.current_epoch)
            self._counts[:, learned] = counts
        accuracy = self.matrix[learned]
        values = {f"val/task_{number}": value for number, value in enumerate(accuracy)}
        values["val/average_accuracy"] = accuracy.nanmean()
        if learned:
            seen = self.matrix[: learned + 1, : learned + 1]
            values["val/forgetting"] = average_forgetting_of(seen)
        pl_module.log_dict({name: value for name, value in values.items() if not value.isnan()})

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of each task."""
        return {"counts": self._counts.clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the counts of each task."""
        self._counts = state_dict["counts"].clone()


def _counts(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking
