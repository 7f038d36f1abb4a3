"""Batches of a few images of each of several classes, for losses that compare rows."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, StreamOptions
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class ClassBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of global batches of m rows of each of ``batch_size`` / m classes.

    For every batch the classes are drawn without replacement, each as likely as any other, and of
    each class m rows without replacement; a class of fewer rows gives some of them again. An
    epoch has N / ``batch_size`` batches, rounded up. As in ``GlobalBatchSampler``, batches are a
    function of (seed, epoch) alone, the same on any number of ranks.

    Args:
        label: Class of each row of the data set, (N,) int64.
        batch_size: Rows of a global batch, over all ranks; a multiple of m.
        rows_per_class: Rows m of a class in a batch.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: ``batch_size`` is no multiple of m, or asks for more classes than there are.

    Example:
        >>> label = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
        >>> batches = ClassBatchSampler(label, batch_size=4, rows_per_class=2)
        >>> [[int(label[row]) for _, row in batch] for batch in batches]
        [[2, 2, 0, 0], [2, 2, 0, 0]]
    """

    def __init__(
        self,
        label: Tensor,
        batch_size: int,
        rows_per_class: int,
        **options: Unpack[StreamOptions],
    ) -> None:
        check_at_least(1, batch_size=batch_size, rows_per_class=rows_per_class)
        super().__init__(len(label), batch_size, shuffle=True, **options)
        self.members = label.argsort(stable=True).split(
            label.unique(return_counts=True)[1].tolist()
        )
        self.rows_per_class = rows_per_class
        self.num_classes = batch_size // rows_per_class
        if batch_size % rows_per_class or self.num_classes > len(self.members):
            raise ValueError(
                f"A batch of batch_size={batch_size} rows, {rows_per_class} of each class, needs "
                f"a multiple of {rows_per_class} and at most {rows_per_class * len(self.members)}, "
                f"as there are {len(self.members)} classes."
            )

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def _order(self, epoch: int, name: str, rows: int) -> Tensor:
        """Return the rows of all batches of an epoch, one batch after the other."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name, "classes"))
        drawn = []
        for _ in range(len(self)):
            chosen = torch.randperm(len(self.members), generator=generator)[: self.num_classes]
            drawn += [self._drawn(self.members[k], generator) for k in chosen.tolist()]
        return torch.cat(drawn)

    def _drawn(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return m rows of a class, each as often as any other, or once more."""
        parts, missing = [], self.rows_per_class
        while missing > 0:
            parts.append(rows[torch.randperm(len(rows), generator=generator)[:missing]])
            missing -= len(rows)
        return torch.cat(parts)
