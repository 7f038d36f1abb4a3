"""Checks that all ranks still hold the same parameters."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from framework.distributed.collectives import world_size
from framework.distributed.row_shards import row_shards

_AS_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(parameter: Tensor) -> Tensor:
    """Return a scalar int64 that depends on every bit of ``parameter`` and its place."""
    bits = parameter.detach().contiguous().flatten()
    bits = bits.view(_AS_INTEGER[bits.element_size()]).long()
    return (bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum()


def check_equal_on_all_ranks(module: nn.Module) -> None:
    """Compare a checksum of every parameter across the ranks; a collective call.

    Of a sharded parameter, or one of which ranks hold rows, there is nothing to compare.

    Raises:
        RuntimeError: on every rank, naming the first parameter that differs.
    """
    shards = row_shards(module)
    named = [
        (n, p)
        for n, p in module.named_parameters()
        if not p.is_complex() and not isinstance(p, DTensor) and n not in shards
    ]
    if world_size() == 1 or not named:
        return
    sums = torch.stack([checksum(p) for _, p in named])
    bounds = torch.stack([sums, -sums])
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX)
    differ = torch.nonzero(bounds[0] != -bounds[1]).flatten()
    if len(differ):
        raise RuntimeError(
            f"The ranks have diverged: {len(differ)} parameters differ, first "
            f"{named[int(differ[0])][0]!r}. Usual causes: `requires_grad` changed after the start, "
            "or a random choice that is not the same on every rank."
        )
