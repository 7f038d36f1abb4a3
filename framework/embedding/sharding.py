"""Classes whose weights lie on several ranks, a part on each, and sums over all classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.distributed.collectives import (
    all_reduce_max,
    all_reduce_sum_with_grad,
    gather,
    gather_with_grad,
    rank,
    rows_per_rank,
    world_size,
)
from framework.distributed.row_shards import RowShard
from framework.layers.scaled_gradient import scale_gradient
from framework.utilities.checks import check_at_least, check_interval

EXCLUDED = -1e30
"""Logit of a class that does not count; with minus infinity a part without others would be NaN."""


@dataclass(frozen=True)
class ClassShard:
    """The classes that one of W ranks holds: C // W, and one more on the first C mod W ranks.

    With W = 1, a classifier that every rank holds whole, no method communicates, however many
    ranks there are. Otherwise every method but the properties is a collective call.

    As everywhere in this project, the gradient that the ranks compute together is that of the sum
    of what they return, each for rows of its own.

    Args:
        num_classes: Number C of classes over all ranks.
        rank: Number of the rank.
        world_size: Number W of ranks that share the classes.

    Raises:
        ValueError: there is no such rank.

    Example:
        >>> [ClassShard(num_classes=5, rank=rank, world_size=2).size for rank in range(2)]
        [3, 2]
    """

    num_classes: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_at_least(1, world_size=self.world_size)
        check_interval(f"[0, {self.world_size})", rank=self.rank)

    @property
    def sharded(self) -> bool:
        """Whether there are several parts."""
        return self.world_size > 1

    @property
    def start(self) -> int:
        """Number of the first class of this part."""
        even, rest = divmod(self.num_classes, self.world_size)
        return even * self.rank + min(self.rank, rest)

    @property
    def size(self) -> int:
        """Number of classes of this part."""
        even, rest = divmod(self.num_classes, self.world_size)
        return even + (self.rank < rest)

    def rows(self, rows_per_class: int = 1) -> RowShard:
        """Return which rows of a table of all classes are in this part; never communicates."""
        each, stop = rows_per_class, self.start + self.size
        return RowShard(start=each * self.start, stop=each * stop, total=each * self.num_classes)

    def of_rank(self, other: int) -> ClassShard:
        """Return the part of another rank; never communicates."""
        return ClassShard(self.num_classes, other, self.world_size)

    def check_ranks(self) -> None:
        """Raise ``RuntimeError`` unless the process group is the one whose ranks hold the parts."""
        if self.sharded and (self.rank, self.world_size) != (rank(), world_size()):
            raise RuntimeError(
                f"The head holds part {self.rank} of {self.world_size} of its classes, but this is "
                f"rank {rank()} of {world_size()}; every rank has to hold the part of its number."
            )

    def gather(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, slice]:
        """Return the embeddings and labels of all ranks, and which rows are this rank's."""
        if not self.sharded:
            return x, labels, slice(None)
        counts = rows_per_rank(len(x), x.device)
        start = sum(counts[: self.rank])
        own = slice(start, start + counts[self.rank])
        return gather_with_grad(x, counts), gather(labels, counts), own

    def scaled_gradient(self, parameter: Tensor) -> Tensor:
        """Return the part's parameter, whose gradient is divided by W.

        The ranks average the gradients of what all of them hold, and a part is on one of them only.
        """
        return scale_gradient(parameter, 1 / self.world_size) if self.sharded else parameter

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of what the parts gave, differentiably."""
        return all_reduce_sum_with_grad(x) if self.sharded else x

    def max(self, x: Tensor) -> Tensor:
        """Return the maximum of what the parts gave, without gradient."""
        return all_reduce_max(x) if self.sharded else x.detach()


def split_target(
    products: Tensor, column: Tensor, here: Tensor, fill: float = EXCLUDED
) -> tuple[Tensor, Tensor]:
    """Return each row's number for its own class, and those for the other classes.

    Args:
        products: Numbers of rows and of this part's classes, (B, C_r), which are changed.
        column: Column of each row's own class, (B,) int64; any where it is not in this part.
        here: Whether it is in this part, (B,) bool.
        fill: Number that takes the place of the own class among the others.

    Returns:
        (B,), 0 where the own class is not in this part, and (B, C_r).
    """
    if products.shape[1] == 0:
        return products.sum(1), products
    return _SplitTarget.apply(products, column[:, None], here[:, None], fill)


def log_sum_exp(logits: Tensor, shard: ClassShard) -> Tensor:
    """Return the logarithm of the sum of exponentials over the classes of all parts, (B,).

    Args:
        logits: (B, C_r), not below ``EXCLUDED``; in a row of all parts one counts at least.
        shard: Which part it is.
    """
    if logits.shape[1]:
        of_part = _LogSumExp.apply(logits, logits.softmax(1))
    else:
        of_part = logits.sum(1) + EXCLUDED
    if not shard.sharded:
        return of_part
    largest = shard.max(of_part)
    return largest + shard.sum((of_part - largest).exp()).log()


class _SplitTarget(torch.autograd.Function):
    """No pass over a large tensor backward, where indexing by autograd takes three."""

    @staticmethod
    def forward(
        ctx: Any, products: Tensor, column: Tensor, here: Tensor, fill: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(column, here)
        own = products.gather(1, column)
        products.scatter_(1, column, torch.where(here, fill, own))
        ctx.mark_dirty(products)
        return torch.where(here, own, 0.0).squeeze(1), products

    @staticmethod
    def backward(ctx: Any, of_own: Tensor, of_others: Tensor) -> tuple[Tensor, None, None, None]:
        column, here = ctx.saved_tensors
        values = torch.where(here, of_own[:, None], of_others.gather(1, column))
        if torch.is_grad_enabled():
            return of_others.scatter(1, column, values), None, None, None
        # no other function gets this tensor, which the loss made for this one
        return of_others.scatter_(1, column, values), None, None, None


class _LogSumExp(torch.autograd.Function):
    """What softmax knows already, which takes a third of the passes of ``torch.logsumexp``."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(shares)
        return logits.amax(1) - shares.amax(1).log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # the shares are an input for the sake of second derivatives, which go through them
        (shares,) = ctx.saved_tensors
        return grad[:, None] * shares, None
