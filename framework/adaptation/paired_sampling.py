"""One stream of global batches that are half of one domain and half of another."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, StreamOptions


class PairedBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of each global batch of pairs of a source and a target row.

    Rows are positions in a data set whose first ``source_rows`` are the source and whose others are
    the target. A batch is source, target, source, target and so on. An epoch is the longer domain
    once; the shorter one starts again, in another order, each time it is through. Orders are a
    function of (seed, epoch, domain, times it is through) alone.

    Rank r of W takes the r-th of W contiguous slices of a batch's pairs, which differ by at most
    one pair and may be empty. So a rank that has rows has both domains, and the ranks' rows in turn
    are those of one process.

    Args:
        source_rows: Number of rows of the source.
        target_rows: Number of rows of the target.
        batch_size: Rows of a global batch, of both domains together.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: an odd ``batch_size`` or one below 2, or a domain without rows.

    Example:
        >>> batches = PairedBatchSampler(source_rows=2, target_rows=3, batch_size=4)
        >>> [[row for _, row in batch] for batch in batches]
        [[1, 2, 0, 4], [0, 3]]
    """

    def __init__(
        self,
        source_rows: int,
        target_rows: int,
        batch_size: int,
        **options: Unpack[StreamOptions],
    ) -> None:
        if batch_size < 2 or batch_size % 2:
            raise ValueError(
                f"batch_size must be even, as half of each batch is of either domain, and at least "
                f"2, got {batch_size}."
            )
        if min(source_rows, target_rows) < 1:
            raise ValueError(
                f"Both domains need rows, got {source_rows} of the source and {target_rows} of the "
                "target."
            )
        super().__init__(
            max(source_rows, target_rows),
            batch_size // 2,
            shuffle=True,
            **options,
        )
        self.source_rows = source_rows
        self.target_rows = target_rows

    def _slices(self, epoch: int) -> list[Tensor]:
        """Return this rank's rows of every global batch of an epoch."""
        source = self._cycles(epoch, "source", self.source_rows)
        target = self._cycles(epoch, "target", self.target_rows) + self.source_rows
        batches = torch.stack([source, target], dim=1).split(self.batch_size)
        slices = [torch.tensor_split(b, self.world_size)[self.rank].flatten() for b in batches]
        return slices[: len(self)]

    def _cycles(self, epoch: int, domain: str, rows: int) -> Tensor:
        """Return permutations of a domain's rows, one after another, as many rows as pairs."""
        times = -(-self.num_samples // rows)
        orders = [self._order(epoch, f"{domain} cycle {time}", rows) for time in range(times)]
        return torch.cat(orders)[: self.num_samples]
