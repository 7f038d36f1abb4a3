"""A shuffle buffer that is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, SampleKey, StreamOptions
from framework.utilities.randomness import stable_seed


class GroupBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of each global batch; rows come in groups that are made together.

    Groups are dealt out to shards, group g to shard ``g % S``. In each epoch every shard takes its
    groups in a random order, ``window_groups`` at a time, and the rows of such a window in a random
    order; a global batch is an equal part of every shard. So batches are the same on any number of
    ranks W. Where W divides S, rank r reads only the shards s with ``s * W // S == r``, and no two
    ranks need the same group; otherwise it takes the r-th slice of each batch. Where a window holds
    all groups of a shard, its rows are shuffled exactly.

    Args:
        num_samples: Number of rows.
        batch_size: Rows of a global batch, over all ranks.
        group_rows: Rows of a group; the last group may have fewer.
        window_groups: Groups of a shard that are shuffled together.
        shards: S.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: ``shards`` does not divide the batch size, or exceeds the number of groups.

    Example:
        >>> batches = GroupBatchSampler(10, 4, group_rows=3, window_groups=2)
        >>> [len(batch) for batch in batches]
        [4, 4, 2]
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        group_rows: int,
        window_groups: int,
        shards: int = 1,
        **options: Unpack[StreamOptions],
    ) -> None:
        super().__init__(num_samples, batch_size, shuffle=True, **options)
        if shards < 1 or batch_size % shards:
            raise ValueError(f"shards={shards} must divide batch_size={batch_size}.")
        self.num_shards = shards
        self.group_rows = group_rows
        self.window_groups = window_groups
        self.num_groups = -(-num_samples // group_rows)
        self.share = batch_size // shards
        if self.num_groups < shards:
            raise ValueError(
                f"shards={shards} are more than the {self.num_groups} groups of {group_rows} rows "
                "that are computed together."
            )

    @property
    def own_shards(self) -> range:
        """The shards that this rank reads."""
        if self.num_shards % self.world_size:
            return range(self.num_shards)
        per_rank = self.num_shards // self.world_size
        return range(self.rank * per_rank, (self.rank + 1) * per_rank)

    def __len__(self) -> int:
        groups = torch.arange(self.num_groups)
        sizes = [len(self._rows(groups[s :: self.num_shards])) for s in range(self.num_shards)]
        return min(sizes) // self.share if self.drop_last else -(-max(sizes) // self.share)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # `start` is read now and not at the first batch: workers prefetch as soon as they exist
        return self._batches(*self.start())

    def _batches(self, epoch: int, skip: int) -> Iterator[list[SampleKey]]:
        order = self.order_epoch(epoch)
        streams = [self._stream(order, shard, skip * self.share) for shard in self.own_shards]
        empty = torch.empty(0, dtype=torch.int64)
        for _ in range(skip, len(self)):
            rows = torch.cat([next(stream, empty) for stream in streams])
            if len(streams) == self.num_shards:
                rows = rows.tensor_split(self.world_size)[self.rank]
            yield [(epoch, row) for row in rows.tolist()]

    def _stream(self, epoch: int, shard: int, skip: int) -> Iterator[Tensor]:
        """Yield a shard's part of every batch, after ``skip`` rows."""
        groups = torch.arange(self.num_groups)[shard :: self.num_shards]
        groups = groups[self._permutation(len(groups), epoch, f"shard {shard}")]
        waiting = torch.empty(0, dtype=torch.int64)
        for window, members in enumerate(groups.split(self.window_groups)):
            rows = self._rows(members)
            if skip >= len(rows):
                skip -= len(rows)
                continue
            order = self._permutation(len(rows), epoch, f"shard {shard} window {window}")
            *full, waiting = torch.cat([waiting, rows[order][skip:]]).split(self.share)
            skip = 0
            yield from full
        if len(waiting):
            yield waiting

    def _permutation(self, rows: int, epoch: int, name: str) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name))
        return torch.randperm(rows, generator=generator)

    def _rows(self, groups: Tensor) -> Tensor:
        rows = (groups[:, None] * self.group_rows + torch.arange(self.group_rows)).flatten()
        return rows[rows < self.num_samples]
