"""The random numbers of one training step, the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from framework.distributed.collectives import (
    draw_for_global_batch,
    rank,
    rows_per_rank,
    shared_generator,
)
from framework.self_tuning.hyper_space import HyperSpace

PERTURBATION = "self_tuning.perturbation"
"""Name of the stream that hyperparameters are perturbed by."""


class Draws:
    """Draws float32 numbers as a function of a seed, a step and a name alone.

    What belongs to rows is drawn for the global batch, and each rank gets its own rows; every rank
    must ask for it, one without rows too. One name gives the same numbers when asked again. How
    many rows of the batch the ranks hold is communicated once.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        micro_batch: Number of the batch among those whose gradients make one step.

    Example:
        >>> draws = Draws(seed=0, step=3)
        >>> draws.uniform("dropout", 4, 10).shape, draws.one("mask", 5).shape
        (torch.Size([4, 10]), torch.Size([5]))
    """

    def __init__(self, seed: int, step: int, micro_batch: int = 0) -> None:
        self.seed = seed
        self.step = step
        self.micro_batch = micro_batch
        self._counts: Sequence[int] | None = None

    def rows_per_rank(self, rows: int, device: torch.device | str = "cpu") -> Sequence[int]:
        """Return how many rows of the batch every rank holds.

        Args:
            rows: Rows of this rank.
            device: Device on which to communicate, if for the first time.

        Raises:
            ValueError: The batch has other rows, as was said before.
        """
        if self._counts is None:
            self._counts = rows_per_rank(rows, device)
        if self._counts[rank()] != rows:
            raise ValueError(
                f"Numbers are drawn for {rows} rows, but the batch has {self._counts[rank()]} here."
            )
        return self._counts

    def uniform(
        self,
        name: str,
        rows: int,
        *shape: int,
        device: torch.device | str = "cpu",
        of_batch: bool = True,
    ) -> Tensor:
        """Return this rank's rows of uniform numbers in [0, 1).

        Args:
            name: Name of the numbers.
            rows: Rows of this rank.
            *shape: Rest of the shape.
            device: Device of the numbers.
            of_batch: Whether the rows are those of the batch.

        Returns:
            (rows, *shape).
        """
        return self._rows(torch.rand, name, rows, shape, device, of_batch)

    def normal(
        self, name: str, rows: int, *shape: int, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return standard normal numbers for this rank's rows of the batch, (rows, *shape)."""
        return self._rows(torch.randn, name, rows, shape, device, of_batch=True)

    def one(self, name: str, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Return uniform numbers in [0, 1) that all rows and ranks share, of any shape."""
        return self._filled(torch.rand, name, shape, device)

    def partners(self, name: str, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Return another place in the global batch for each of this rank's rows.

        Args:
            name: Name of the numbers.
            rows: Rows of this rank.
            device: Device of the result.

        Returns:
            (rows,) int64, this rank's part of a permutation of all rows; no row is its own partner
            unless it is the only one.
        """

        def pair(n: int, generator: torch.Generator) -> Tensor:
            order = torch.randperm(n, generator=generator, device=device)
            # the next one in a random circle
            return torch.empty_like(order).index_copy_(0, order, order.roll(1))

        counts = self.rows_per_rank(rows, device)
        return draw_for_global_batch(pair, rows, self._generator(name, device), counts)

    def shared_perturbation(self, space: HyperSpace) -> Tensor:
        """Return the standard normal numbers (n,) of the hyperparameters that all rows share."""
        return self._filled(torch.randn, f"{PERTURBATION}.shared", (space.size,), space.raw.device)

    def perturbation(self, rows: int, space: HyperSpace) -> Tensor:
        """Return standard normal numbers for this rank's rows.

        Args:
            rows: Rows of this rank.
            space: Hyperparameters; the columns of shared ones are equal in all rows and ranks.

        Returns:
            (rows, n).
        """
        own = self.normal(PERTURBATION, rows, space.size, device=space.raw.device)
        return torch.where(space.is_shared, self.shared_perturbation(space), own)

    def _rows(
        self,
        kind: Callable[..., Tensor],
        name: str,
        rows: int,
        shape: tuple[int, ...],
        device: torch.device | str,
        of_batch: bool,
    ) -> Tensor:
        def sample(n: int, generator: torch.Generator) -> Tensor:
            return kind(n, *shape, generator=generator, dtype=torch.float32, device=device)

        counts = self.rows_per_rank(rows, device) if of_batch else None
        return draw_for_global_batch(sample, rows, self._generator(name, device), counts)

    def _filled(
        self,
        kind: Callable[..., Tensor],
        name: str,
        shape: tuple[int, ...],
        device: torch.device | str,
    ) -> Tensor:
        generator = self._generator(name, device)
        return kind(*shape, generator=generator, dtype=torch.float32, device=device)

    def _generator(self, name: str, device: torch.device | str) -> torch.Generator:
        return shared_generator(self.seed, self.step, name, device, self.micro_batch)
