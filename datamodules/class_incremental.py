"""Classes that are learned one group after the other, out of any labeled images."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.class_parts import labels_of
from datamodules.wrapped_data import WrappedData
from framework.data.datamodule import DataModule, LoaderOptions
from framework.data.datasets import Batch, Sample, root_and_rows
from framework.data.facts import copy_facts
from framework.data.task_sampling import TaskBatchSampler
from framework.utilities.checks import check_at_least


class ClassIncremental(WrappedData):
    """Labeled images whose classes are trained in groups, one task after the other.

    Epoch e trains on the rows of task e // ``epochs_per_task`` alone: digits in pairs are (0, 1),
    then (2, 3), and so on, the class-incremental protocol of arXiv:2507.12224. A run of all
    tasks has ``max_epochs`` = tasks x ``epochs_per_task``; later epochs stay at the last task.
    Labels keep their numbers, and validation and test have the rows of all classes, so that a model
    predicts among all of them; ``TaskMatrix`` logs the accuracy on each task and what was
    forgotten.

    Batches hold what ``data`` yields and ``index`` (B,) int64, the row of its full training set.
    All epochs have the same number of full batches: rows of a task come again once all of them
    came. The stream is the same on any number of ranks, and a run resumes inside a task.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Datamodule of labeled images; its own ``batch_size``, ``eval_batch_size``,
            ``num_workers`` and ``balance_classes`` are not used.
        tasks: Classes of each task by their labels, or how many classes a task has, in the order
            of their labels. A class of no task is not trained.
        epochs_per_task: Epochs of each task.
        steps_per_epoch: Batches of an epoch; None for as many as the largest task needs to have
            each row once.
        batch_size: Rows of a global batch, over all ranks.

    Raises:
        ValueError: Data with mixup, an argument out of its range, a class in two tasks, or (at
            ``setup``) noisy labels or a class without training rows.
        TypeError: Data that are no labeled images.

    Example:
        >>> from datamodules import ClassIncremental, Digits
        >>> data = ClassIncremental(Digits(), tasks=2, batch_size=32)
        >>> data.setup("fit")
        >>> data.tasks, data.task_of_epoch(2)
        ([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], 2)
        >>> next(iter(data.train_dataloader()))["label"].unique()
        tensor([0, 1])
    """

    def __init__(
        self,
        data: DataModule,
        tasks: int | list[list[int]] = 2,
        epochs_per_task: int = 1,
        steps_per_epoch: int | None = None,
        batch_size: int = 128,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        check_at_least(1, epochs_per_task=epochs_per_task, steps_per_epoch=steps_per_epoch)
        if isinstance(tasks, int):
            check_at_least(1, tasks=tasks)
        else:
            classes = [label for task in tasks for label in task]
            if not tasks or not all(tasks) or len(set(classes)) < len(classes):
                raise ValueError(
                    "tasks must be lists of classes, none empty and each class in one of them, "
                    f"got {tasks}."
                )
        if data.mixes_samples or data.has_groups:
            raise ValueError(
                f"{type(data).__name__} makes samples of several, which may be of two tasks: "
                "switch its mixup off."
            )
        if self.shards is not None or self.drop_last:
            raise ValueError(
                "ClassIncremental makes full batches of all rows of a task: drop "
                f"{'drop_last' if self.shards is None else 'shards'}."
            )
        self.data = data
        self.wanted_tasks = tasks
        self.epochs_per_task = epochs_per_task
        self.steps_per_epoch = steps_per_epoch
        self.tasks: list[list[int]] = []
        copy_facts(self.data, self)

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, once, and find the classes of each task."""
        if self.train_set is not None:
            return
        self.set_up_data()
        name = type(self.data).__name__
        source, rows = root_and_rows(self.data.train_set, list(range(len(self.data.train_set))))  # type: ignore[arg-type]
        label = labels_of(source, name)[rows]
        if "clean_label" in source.fields:
            raise ValueError(f"Tasks are told by labels that are right: drop {name}'s label_noise.")
        classes = label[label >= 0].unique().tolist()
        wanted = self.wanted_tasks
        if isinstance(wanted, int):
            self.tasks = [classes[k : k + wanted] for k in range(0, len(classes), wanted)]
        else:
            self.tasks = wanted
        missing = [k for task in self.tasks for k in task if k not in classes]
        if missing:
            raise ValueError(
                f"{name} has no training rows of class {missing[0]}, which tasks names; it has "
                f"the classes {classes}."
            )
        self.train_set, self.plain_train_set = self.data.train_set, self.data.plain_train_set
        self.augment = self.data.augment

    def task_of_epoch(self, epoch: int) -> int:
        """Return the number of the task that an epoch trains."""
        return min(epoch // self.epochs_per_task, len(self.tasks) - 1)

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    def train_sampler(self) -> TaskBatchSampler:
        """Return the stream of batches of one task after the other."""
        source, rows = root_and_rows(self.train_set, list(range(len(self.train_set))))  # type: ignore[arg-type]
        label = source.fields["label"][rows]
        members = [torch.isin(label, torch.tensor(t)).nonzero().flatten() for t in self.tasks]
        epochs = len(members) * self.epochs_per_task
        limit = getattr(self.trainer, "max_epochs", None)
        if limit is not None and 0 <= limit < epochs:
            rank_zero_warn(
                f"{limit} epochs end before the last of {len(members)} tasks of "
                f"{self.epochs_per_task} each: set trainer.max_epochs to {epochs}."
            )
        return TaskBatchSampler(
            members,
            self.batch_size,
            self.epochs_per_task,
            self.steps_per_epoch,
            **{k: v for k, v in self._stream.items() if k != "drop_last"},  # type: ignore[arg-type]
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity and the place in it."""
        own = {"tasks": self.tasks, "epochs_per_task": self.epochs_per_task}
        return {**super().state_dict(), **own, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Training goes on with other tasks or other lengths of them, or see the
                base class.
        """
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        for name in ("tasks", "epochs_per_task", "steps_per_epoch"):
            if trains and state_dict[name] != getattr(self, name):
                raise RuntimeError(
                    f"The checkpoint was written with {name}={state_dict[name]}, and its tasks "
                    f"cannot go on with {getattr(self, name)}: keep the value."
                )
        super().load_state_dict(state_dict)
