"""Bags of rows, and batches that never split one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from framework.data.samplers import GlobalBatchSampler, SampleKey
from framework.utilities.randomness import stable_seed


def assign_bags(rows: int, bag_size: int, seed: int = 0) -> Tensor:
    """Return the bag of every row, (rows,) int64 in 0..M-1, after a random permutation.

    There are M = rows // bag_size bags: what is left over makes some of them larger, and none is
    smaller than ``bag_size``.

    Raises:
        ValueError: ``bag_size`` is not in 1..rows.
    """
    if not 1 <= bag_size <= rows:
        raise ValueError(f"bag_size must lie in 1..{rows}, the number of rows, got {bag_size}.")
    generator = torch.Generator().manual_seed(stable_seed(seed, "bags"))
    order = torch.randperm(rows, generator=generator)
    bags = torch.arange(rows) * (rows // bag_size) // rows
    return torch.empty_like(bags).scatter(0, order, bags)


class BagSampler(GlobalBatchSampler):
    """Yields this rank's bags of each global batch, never a part of a bag.

    As ``GlobalBatchSampler``, but of bags: the order is a function of (seed, epoch) alone, and
    rank r of W takes the r-th of W contiguous slices of a batch's bags, which differ by at most one
    bag and may be empty. A bag's rows come in ascending order.

    Args:
        bag_of_row: Bag of each row of the data set, (N,) int64 in 0..M-1.
        batch_size: Rows of a global batch, over all ranks. A batch holds ``batch_size / (N / M)``
            bags, rounded down, but at least one; where bags differ in size it may hold a few rows
            more or less.
        seed: Seed of the permutation of the bags.
        rank: Number of this process.
        world_size: Number of processes W.
        start: Function called at each ``iter()``; returns (epoch, global batches to leave out).

    Raises:
        ValueError: ``batch_size`` below 1, or a bag without rows.

    Example:
        >>> import torch
        >>> sampler = BagSampler(torch.tensor([0, 1, 2, 0, 1, 2]), batch_size=5)
        >>> [[row for _, row in batch] for batch in sampler]
        [[2, 5, 1, 4], [0, 3]]
    """

    def __init__(
        self,
        bag_of_row: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], SampleKey] = lambda: (0, 0),
    ) -> None:
        sizes = torch.bincount(bag_of_row)
        if not len(sizes) or not sizes.all():
            raise ValueError("Every bag from 0 to the largest number must have a row.")
        if batch_size >= 1:  # otherwise the message of the base class says what is wrong
            batch_size = max(1, batch_size * len(sizes) // len(bag_of_row))
        super().__init__(
            len(sizes),
            batch_size,
            shuffle=True,
            seed=seed,
            rank=rank,
            world_size=world_size,
            start=start,
        )
        self.members = bag_of_row.argsort(stable=True).split(sizes.tolist())

    def _slices(self, epoch: int) -> list[Tensor]:
        """Return the rows of this rank's bags of every global batch of an epoch."""
        empty = torch.empty(0, dtype=torch.int64)
        return [
            torch.cat([empty, *(self.members[bag] for bag in bags.tolist())])
            for bags in super()._slices(epoch)
        ]
