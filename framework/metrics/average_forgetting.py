"""How much of earlier tasks is lost when tasks are learned one after the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


def average_forgetting_of(matrix: Tensor) -> Tensor:
    r"""Return :math:`\frac{1}{T-1} \sum_{j<T} (\max_{i<T} R_{ij} - R_{Tj})`.

    Args:
        matrix: Accuracies R (T, T) on task j after task i, NaN where not measured; of a single task
            the result is NaN.

    Example:
        >>> average_forgetting_of(torch.tensor([[0.9, torch.nan], [0.5, 0.8]]))
        tensor(0.4000)
    """
    before = matrix[:-1, :-1]
    if not before.numel():
        return matrix.new_tensor(torch.nan)
    best = before.where(~before.isnan(), -torch.inf).amax(0)
    lost = best.where(best > -torch.inf, torch.nan) - matrix[-1, :-1]
    return lost.nanmean()


class AverageForgetting(Metric):
    """Average forgetting of a classifier that learned T tasks, over all batches and ranks.

    What was lost of each task but the last: its best accuracy after an earlier task less that after
    the last one, the mean over the tasks (arXiv:2507.12224). 0 is nothing forgotten; negative
    where later tasks helped. ``matrix`` has the accuracies, ``final_accuracy`` the mean of its last
    row.

    Shapes: predictions (B,) int64, or scores (B, C); targets (B,) int64; task (B,) int64, that of
    each row.

    Args:
        num_tasks: Number T of tasks; they are numbered 0..T-1 in the order of learning.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_tasks`` below 1, or a ``learned`` that is no task.

    Example:
        >>> forgetting = AverageForgetting(num_tasks=2)
        >>> label, task = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])
        >>> forgetting.update(torch.tensor([0, 1, 0, 0]), label, task, learned=0)
        >>> forgetting.update(torch.tensor([2, 1, 2, 3]), label, task, learned=1)
        >>> forgetting.compute(), forgetting.final_accuracy()
        (tensor(0.5000), tensor(0.7500))
    """

    full_state_update = False
    higher_is_better = False
    correct: Tensor
    rows: Tensor

    def __init__(self, num_tasks: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_tasks=num_tasks)
        zeros = torch.zeros(num_tasks, num_tasks, dtype=torch.int64)
        self.add_state("correct", zeros, dist_reduce_fx="sum")
        self.add_state("rows", zeros.clone(), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor, task: Tensor, learned: int) -> None:
        """Add a batch that was predicted after the task ``learned``."""
        tasks = len(self.rows)
        if not 0 <= learned < tasks:
            raise ValueError(f"learned must be in 0..{tasks - 1}, the tasks, got {learned}.")
        if predictions.ndim == 2:
            predictions = predictions.argmax(1)
        self.rows[learned] += task.bincount(minlength=tasks)
        self.correct[learned] += task[predictions == targets].bincount(minlength=tasks)

    def matrix(self) -> Tensor:
        """Return the accuracies (T, T) on task j after task i, NaN where no row was seen."""
        return self.correct.float() / self.rows

    def final_accuracy(self) -> Tensor:
        """Return the mean over tasks of the accuracy after the last one."""
        return self.matrix()[-1].nanmean()

    def compute(self) -> Tensor:
        """Return the average forgetting; NaN of a single task."""
        return average_forgetting_of(self.matrix())
