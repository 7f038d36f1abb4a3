"""Parameters of which every rank holds some rows, such as the class weights of a large classifier.

Each rank computes with its rows alone and no other rank has them, so their gradients are not
averaged: DDP leaves them out, while what is saved and loaded are whole parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from framework.distributed.collectives import rank, rows_per_rank


class RowShard(NamedTuple):
    """The rows of a whole parameter that this rank holds.

    Example:
        >>> RowShard(start=4, stop=7, total=10).is_whole
        False
    """

    start: int
    """First row."""
    stop: int
    """Row after the last one."""
    total: int
    """Rows of the whole parameter."""

    @property
    def is_whole(self) -> bool:
        """Whether no other rank has any rows."""
        return self.stop - self.start == self.total


def row_shards(module: nn.Module) -> dict[str, RowShard]:
    """Return the parameters of which this rank holds some rows and another the others, by name.

    A part of the module has those of its own in ``own_row_shards``, a mapping from their names.

    Args:
        module: Module.
    """
    return {
        f"{prefix}.{name}" if prefix else name: shard
        for prefix, part in module.named_modules()
        for name, shard in getattr(part, "own_row_shards", {}).items()
        if not shard.is_whole
    }


def whole_rows(rows: Tensor, shard: RowShard) -> Tensor | None:
    """Return the rows of all ranks on the CPU of rank 0, None elsewhere; a collective call.

    Rank 0 receives one shard after the other, so that no GPU holds more than two.

    Args:
        rows: This rank's rows (stop - start, ...), which follow those of the ranks before it.
        shard: Which rows they are.
    """
    rows = rows.detach().contiguous()
    if shard.is_whole:
        return rows.cpu() if rank() == 0 else None
    counts = rows_per_rank(len(rows), rows.device)
    if rank() > 0:
        dist.send(rows, dst=0)
        return None
    parts = [rows.cpu()]
    for other, count in enumerate(counts[1:], start=1):
        part = rows.new_empty(count, *rows.shape[1:])
        dist.recv(part, src=other)
        parts.append(part.cpu())
    return torch.cat(parts)


def own_rows(whole: Tensor, shard: RowShard) -> Tensor:
    """Return this rank's rows of a whole tensor, as a copy; one of other rows as it is.

    Args:
        whole: Tensor (total, ...).
        shard: Which rows are this rank's.
    """
    if whole.ndim == 0 or len(whole) != shard.total or shard.is_whole:
        return whole
    return whole[shard.start : shard.stop].clone()
