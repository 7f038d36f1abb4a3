"""One stream of global batches with given numbers of labeled and of unlabeled rows."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, StreamOptions


class LabeledBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of global batches of labeled and unlabeled rows.

    Rows are positions in a data set whose first ``labeled_rows`` are labeled and whose others are
    not. A batch has ``labeled_per_batch`` labeled rows, spread evenly among the unlabeled ones, so
    that the ranks' slices have the same number of them, give or take one. An epoch ends when all
    labeled and all unlabeled rows came; whichever is through earlier starts again, in another
    order. The last batch may be smaller, with the same share of labeled rows, rounded up. Orders
    are a function of (seed, epoch, kind of row, times it is through) alone.

    Args:
        labeled_rows: Number of labeled rows.
        unlabeled_rows: Number of unlabeled rows.
        batch_size: Rows of a global batch, of both kinds together.
        labeled_per_batch: Labeled rows of a global batch.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: a batch without rows of either kind, or a data set without them.

    Example:
        >>> batches = LabeledBatchSampler(2, 7, batch_size=4, labeled_per_batch=1)
        >>> [[row for _, row in batch] for batch in batches]
        [[8, 3, 7, 0], [6, 5, 4, 1], [2, 1]]
    """

    def __init__(
        self,
        labeled_rows: int,
        unlabeled_rows: int,
        batch_size: int,
        labeled_per_batch: int,
        **options: Unpack[StreamOptions],
    ) -> None:
        if not 0 < labeled_per_batch < batch_size:
            raise ValueError(
                f"A batch of {batch_size} rows needs from 1 to {batch_size - 1} labeled ones, got "
                f"labeled_per_batch={labeled_per_batch}."
            )
        if min(labeled_rows, unlabeled_rows) < 1:
            raise ValueError(
                f"Both kinds of rows are needed, got {labeled_rows} labeled and {unlabeled_rows} "
                "unlabeled ones."
            )
        rows = labeled_rows + unlabeled_rows
        super().__init__(rows, batch_size, shuffle=True, **options)
        self.rows = (labeled_rows, unlabeled_rows)
        self.per_batch = (labeled_per_batch, batch_size - labeled_per_batch)

    def __len__(self) -> int:
        return len(self._sizes())

    def _sizes(self) -> list[tuple[int, int]]:
        """Return how many labeled and unlabeled rows each batch has."""
        (labeled, unlabeled), (share, others) = self.rows, self.per_batch
        steps = max(-(-labeled // share), -(-unlabeled // others))
        left, others_left = labeled - (steps - 1) * share, unlabeled - (steps - 1) * others
        last = (
            max(1, left, -(-others_left * share // others)),
            max(1, others_left, -(-left * others // share)),
        )
        full = [self.per_batch] * (steps - 1)
        return full if self.drop_last and last != self.per_batch else [*full, last]

    def _slices(self, epoch: int) -> list[Tensor]:
        """Return this rank's rows of every global batch of an epoch."""
        sizes = self._sizes()
        streams = [
            self._cycles(epoch, kind, rows, sum(size[k] for size in sizes)) + first
            for k, (kind, rows, first) in enumerate(
                (("labeled", self.rows[0], 0), ("unlabeled", self.rows[1], self.rows[0]))
            )
        ]
        labeled, unlabeled = (
            stream.split([size[k] for size in sizes]) for k, stream in enumerate(streams)
        )
        return [
            torch.tensor_split(_spread(*parts), self.world_size)[self.rank]
            for parts in zip(labeled, unlabeled, strict=True)
        ]

    def _cycles(self, epoch: int, kind: str, rows: int, needed: int) -> Tensor:
        """Return permutations of a kind's rows, one after another, as many rows as needed."""
        orders = [
            self._order(epoch, f"{kind} cycle {time}", rows) for time in range(-(-needed // rows))
        ]
        return torch.cat([torch.empty(0, dtype=torch.int64), *orders])[:needed]


def _spread(labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """Return all rows, the labeled ones at even distances."""
    size, share = len(labeled) + len(unlabeled), len(labeled)
    place = torch.arange(size)
    is_labeled = (place + 1) * share // size > place * share // size
    batch = torch.empty(size, dtype=torch.int64)
    batch[is_labeled], batch[~is_labeled] = labeled, unlabeled
    return batch
