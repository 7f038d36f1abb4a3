"""One stream of global batches, the same on any number of ranks, workers and restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypedDict, Unpack

import torch
from torch import Tensor
from torch.utils.data import Sampler

from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed

SampleKey = tuple[int, int]
"""What the sampler hands to a dataset: (epoch, position in the dataset)."""


class StreamOptions(TypedDict, total=False):
    """Arguments of ``GlobalBatchSampler`` that every stream of batches has."""

    seed: int
    drop_last: bool
    rank: int
    world_size: int
    start: Callable[[], SampleKey]


class GlobalBatchSampler(Sampler[list[SampleKey]]):
    """Yields this rank's slice of each global batch as a list of (epoch, position) keys.

    The order is a function of (seed, epoch) alone. Rank r of W takes the r-th of W contiguous
    slices, which differ by at most one row and may be empty.

    Args:
        num_samples: Rows of the dataset.
        batch_size: Rows of a global batch, over all ranks.
        shuffle: Whether to permute the rows in each epoch.
        seed: Seed of the permutation.
        drop_last: Whether to leave out the last batch if it is smaller.
        rank: Number of this process.
        world_size: Number of processes W.
        shards: None, or S: sample i belongs to shard ``stable_index[i] % S`` for the whole run,
            each global batch takes an equal part of every shard, and rank r of W reads only the
            shards s with ``s * W // S == r``. Sampling then differs from the plain stream, but
            equally on every number of ranks that divides S.
        stable_index: Positions in the full training set, (num_samples,); default
            0..num_samples-1.
        start: Function that returns (epoch, global batches to leave out), called at each
            ``iter()``.

    Raises:
        ValueError: ``batch_size`` below 1, or ``shards`` not a multiple of ``world_size``.

    Example:
        >>> second = GlobalBatchSampler(5, batch_size=4, shuffle=False, rank=1, world_size=2)
        >>> list(second)
        [[(0, 2), (0, 3)], []]
    """

    repeats = False
    """True if every epoch has the order of the first, as ``overfit_batches`` asks for."""

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        shards: int | None = None,
        stable_index: Tensor | None = None,
        start: Callable[[], SampleKey] = lambda: (0, 0),
    ) -> None:
        check_at_least(1, batch_size=batch_size)
        if shards is not None and (shards % world_size or batch_size % shards):
            raise ValueError(
                f"shards={shards} must be a multiple of the {world_size} ranks and divide "
                f"batch_size={batch_size}."
            )
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.shards = shards
        self.stable_index = stable_index
        self.start = start

    def __len__(self) -> int:
        sizes = [self.num_samples]
        share = self.batch_size
        if self.shards is not None:
            sizes = [len(part) for part in self._shard_members()]
            share //= self.shards
        return min(sizes) // share if self.drop_last else -(-max(sizes) // share)

    def _shard_members(self) -> list[Tensor]:
        assert self.shards is not None
        stable = self.stable_index
        owner = torch.arange(self.num_samples) if stable is None else stable
        return [torch.nonzero(owner % self.shards == s).flatten() for s in range(self.shards)]

    def _order(self, epoch: int, name: str, rows: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(rows)
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name))
        return torch.randperm(rows, generator=generator)

    def _slices(self, epoch: int) -> list[Tensor]:
        """Return this rank's rows of every global batch of an epoch."""
        if self.shards is None:
            batches = self._order(epoch, "order", self.num_samples).split(self.batch_size)
            slices = [torch.tensor_split(b, self.world_size)[self.rank] for b in batches]
        else:
            share = self.batch_size // self.shards
            per_rank = self.shards // self.world_size
            own = range(self.rank * per_rank, (self.rank + 1) * per_rank)
            members = self._shard_members()
            orders = [
                members[s][self._order(epoch, f"shard {s}", len(members[s]))].split(share)
                for s in own
            ]
            empty = torch.empty(0, dtype=torch.int64)
            slices = [
                torch.cat([order[step] if step < len(order) else empty for order in orders])
                for step in range(max(-(-len(m) // share) for m in members))
            ]
        return slices[: len(self)]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        # `start` is read now and not at the first batch: workers prefetch as soon as they exist
        epoch, skip = self.start()
        slices = self._slices(self.order_epoch(epoch))
        return iter([[(epoch, row) for row in rows.tolist()] for rows in slices[skip:]])

    def order_epoch(self, epoch: int) -> int:
        """Return the epoch whose order is that of ``epoch``."""
        return 0 if self.repeats else epoch


class WeightedBatchSampler(GlobalBatchSampler):
    """Yields this rank's slice of global batches whose rows are drawn by weights.

    Rows are drawn with replacement. As in ``GlobalBatchSampler`` they are a function of (seed,
    epoch) alone, so that batches are the same on any number of ranks.

    Args:
        weights: Weights (N,) of the rows of the dataset, not negative, of any sum.
        batch_size: Rows of a global batch, over all ranks.
        **options: Further arguments of ``GlobalBatchSampler``.

    Raises:
        ValueError: ``batch_size`` below 1, or weights that are negative or sum to 0.

    Example:
        >>> batches = WeightedBatchSampler(torch.tensor([0.0, 1.0, 0.0]), batch_size=2)
        >>> list(batches)
        [[(0, 1), (0, 1)], [(0, 1)]]
    """

    def __init__(
        self,
        weights: Tensor,
        batch_size: int,
        **options: Unpack[StreamOptions],
    ) -> None:
        super().__init__(len(weights), batch_size, shuffle=True, **options)
        if not ((weights >= 0).all() and 0 < weights.sum() < torch.inf):
            raise ValueError("Weights of rows must be at least 0, and some of them positive.")
        self.bounds = weights.double().cumsum(0)

    def _order(self, epoch: int, name: str, rows: int) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name, "weighted"))
        draws = torch.rand(rows, generator=generator, dtype=torch.float64) * self.bounds[-1]
        # rounding may lift a draw to the last bound, past the last row of any weight
        last = int(torch.searchsorted(self.bounds, self.bounds[-1]))
        return torch.searchsorted(self.bounds, draws, right=True).clamp(max=last)
