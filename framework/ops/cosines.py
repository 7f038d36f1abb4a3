"""Cosine similarities in full precision, a block at a time, and what is nearest by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.utilities.precision import at_least_float32

BLOCK = 2**24
"""Similarities that are in memory at a time."""


class Neighbors(NamedTuple):
    """The nearest rows of a gallery to b queries, in falling similarity.

    Args:
        rows: Which queries these are.
        similarity: Cosines (b, k).
        found: Rows of the gallery (b, k) int64; of several as near the first comes first.
    """

    rows: slice
    similarity: Tensor
    found: Tensor


def unit(embedding: Tensor) -> Tensor:
    """Return embeddings (N, d) with norm 1, in float32 at least; 0 and what is not finite is 0."""
    return F.normalize(at_least_float32(embedding.detach()), dim=1).nan_to_num(0.0)


def squared_distances(embedding: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the squared distance of pairs of embeddings of norm 1, (M,).

    Args:
        embedding: (N, d), of norm 1.
        first: Row of the first one of each pair, (M,).
        second: Row of the second one.
    """
    rows = max(1, BLOCK // max(1, embedding.shape[1]))
    parts = [
        (embedding[one] - embedding[other]).square().sum(1)
        for one, other in zip(first.split(rows), second.split(rows), strict=True)
    ]
    return torch.cat(parts) if parts else embedding.new_zeros(0)


def row_blocks(rows: int, columns: int, block: int = BLOCK) -> Iterator[slice]:
    """Yield slices of rows of a table, of about ``block`` numbers each."""
    size = max(1, block // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices in the precision of their numbers inside the block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def nearest_neighbors(
    query: Tensor, gallery: Tensor, k: int, own: Tensor | None = None, block: int = BLOCK
) -> Iterator[Neighbors]:
    """Yield the k nearest rows of a gallery to each query, for some queries at a time.

    Args:
        query: (Q, d), of norm 1.
        gallery: (N, d), of norm 1.
        k: Number of neighbors, at most N, or N - 1 where each query is left out.
        own: Row of the gallery that each query is, (Q,), which is no neighbor of it.
        block: Similarities that are in memory at a time.
    """
    columns = torch.arange(len(gallery), device=gallery.device)
    for rows in row_blocks(len(query), len(gallery), block):
        with full_precision(query.device):
            similarity = query[rows] @ gallery.T
        if own is not None:
            similarity.scatter_(1, own[rows, None], -torch.inf)
        order = _ordered(similarity).mul_(2**32).sub_(columns)
        index = -order.topk(k).values % 2**32
        yield Neighbors(rows, similarity.gather(1, index), index)


def _ordered(values: Tensor) -> Tensor:
    """Return whole numbers of 32 bits that are ordered as float32 numbers are."""
    # -0 and 0 are equal, and become so by a sum
    bits = values.float().add(0.0).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
