"""One stream of global batches that comes to the rows of one task after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, StreamOptions
from framework.utilities.checks import check_at_least


class TaskBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of global batches of the rows of the epoch's task.

    Epoch e is of task e // ``epochs_per_task``, or the last one. All epochs have the same number of
    full batches, in which every row of the task comes once before any comes again. As in
    ``GlobalBatchSampler``, batches are a function of (seed, epoch) alone, the same on any number of
    ranks.

    Args:
        tasks: Rows of each task, (N_t,) int64.
        batch_size: Rows of a global batch, over all ranks.
        epochs_per_task: Epochs of each task.
        steps_per_epoch: Batches of an epoch; None for as many as the largest task needs.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: A number below 1, no task, or a task without rows.

    Example:
        >>> tasks = [torch.tensor([0, 1]), torch.tensor([2, 3, 4])]
        >>> list(TaskBatchSampler(tasks, batch_size=2, start=lambda: (1, 0)))
        [[(1, 3), (1, 4)], [(1, 2), (1, 4)]]
    """

    def __init__(
        self,
        tasks: Sequence[Tensor],
        batch_size: int,
        epochs_per_task: int = 1,
        steps_per_epoch: int | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        check_at_least(1, epochs_per_task=epochs_per_task, steps_per_epoch=steps_per_epoch)
        super().__init__(sum(map(len, tasks)), batch_size, shuffle=True, **options)
        empty = [number for number, rows in enumerate(tasks) if not len(rows)]
        if not tasks or empty:
            raise ValueError(
                "Tasks need rows to train on: "
                f"{f'task {empty[0]} of {len(tasks)} has none' if tasks else 'there is no task'}."
            )
        self.tasks = list(tasks)
        self.epochs_per_task = epochs_per_task
        self.steps_per_epoch = steps_per_epoch

    def __len__(self) -> int:
        largest = max(map(len, self.tasks))
        return self.steps_per_epoch or -(-largest // self.batch_size)

    def _slices(self, epoch: int) -> list[Tensor]:
        rows = self.tasks[min(epoch // self.epochs_per_task, len(self.tasks) - 1)]
        needed = len(self) * self.batch_size
        passes = -(-needed // len(rows))
        order = torch.cat([self._order(epoch, f"pass {k}", len(rows)) for k in range(passes)])
        batches = rows[order[:needed]].split(self.batch_size)
        return [torch.tensor_split(batch, self.world_size)[self.rank] for batch in batches]
