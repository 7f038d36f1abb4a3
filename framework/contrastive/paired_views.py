"""The two views of a batch, seen by all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import gather_with_grad, rows_per_rank


class PairedViews(NamedTuple):
    """Embeddings of two views, of this rank and of all.

    Args:
        first: First views of this rank (B_r, d).
        second: Second views of this rank (B_r, d).
        all_first: First views of the global batch (B, d), with gradient to the rank they are of.
        all_second: Second views of the global batch (B, d).
        counts: Rows of each rank.
    """

    first: Tensor
    second: Tensor
    all_first: Tensor
    all_second: Tensor
    counts: Sequence[int]

    @property
    def rows(self) -> int:
        """Rows B of the global batch."""
        return sum(self.counts)


def paired_views(first: Tensor, second: Tensor) -> PairedViews:
    """Return the views of all ranks, of length 1; collective, also for a rank without rows.

    Args:
        first: Embeddings (B_r, d) of the first views.
        second: Embeddings (B_r, d) of the second views, row by row of the same samples.

    Raises:
        ValueError: The embeddings are not two matrices of one shape.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "The embeddings of two views must be two matrices (B, d) of one shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    counts = rows_per_rank(len(first), first.device)
    # both in one message
    everyone = gather_with_grad(torch.cat([first, second], 1), counts)
    all_first, all_second = everyone.chunk(2, 1)
    return PairedViews(first, second, all_first, all_second, counts)
