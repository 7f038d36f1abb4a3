"""A quantile of the magnitudes of many tensors, whole or sharded, without sorting them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

# the bits of a non-negative float32 are ordered as the numbers are: 10, 10 and 11 of them at a time
_DIGITS = ((21, 10), (11, 10), (0, 11))


def magnitude_quantile(tensors: Iterable[Tensor], share: float) -> float:
    """Return the least magnitude that at least this share of all non-zero entries do not exceed.

    Magnitudes are compared in float32. Three counts over the tensors find it: nothing is
    sorted or joined, and shards exchange counts only.

    Collective where a tensor is a DTensor: all ranks must call it, and all get the same number.

    Args:
        tensors: Tensors of any shapes, real.
        share: Share of the non-zero entries, in [0, 1]; 0 asks for the least of them.

    Returns:
        The magnitude, 0 where all entries are 0.

    Example:
        >>> magnitude_quantile([torch.tensor([0.0, -3.0, 1.0]), torch.tensor([2.0, 4.0])], 0.5)
        2.0
    """
    parts = [_local(x) for x in tensors]
    found, wanted = 0, None
    for shift, width in _DIGITS:
        counts = _summed([(_counts(x, found, shift, width), shards) for x, shards in parts])
        if wanted is None:
            total = sum(counts)
            if total == 0:
                return 0.0
            # a share such as 0.1 times 30 is not to be 3.0000000000000004
            wanted = max(1, math.ceil(share * total * (1 - 1e-12)))
        digit = 0
        while wanted > counts[digit]:
            wanted -= counts[digit]
            digit += 1
        found |= digit << shift
    return torch.tensor(found, dtype=torch.int32).view(torch.float32).item()


def _local(x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """Return this rank's entries of a tensor and the groups over which it is cut."""
    if not isinstance(x, DTensor):
        return x, ()
    if any(placement.is_partial() for placement in x.placements):
        return x.full_tensor(), ()
    cut = [i for i, placement in enumerate(x.placements) if not placement.is_replicate()]
    return x.to_local(), tuple(x.device_mesh.get_group(i) for i in cut)


def _counts(x: Tensor, found: int, shift: int, width: int) -> Tensor:
    """Count the non-zero entries that begin with ``found`` by their next digit."""
    bits = x.detach().flatten().float().abs().view(torch.int32)
    above = shift + width
    among = bits > 0 if above > 30 else (bits > 0) & (bits >> above == found >> above)
    digits = bits[among] >> shift & (1 << width) - 1
    return torch.bincount(digits, minlength=1 << width)


def _summed(counts: Sequence[tuple[Tensor, tuple[Any, ...]]]) -> list[int]:
    """Add up counts, over ranks where tensors are cut: a message per device and way of cutting."""
    sums: dict[tuple[torch.device, tuple[Any, ...]], Tensor] = {}
    for count, shards in counts:
        kind = count.device, shards
        sums[kind] = sums[kind] + count if kind in sums else count
    for (_, shards), total in sums.items():
        for group in shards:
            dist.all_reduce(total, group=group)
    columns = [total.tolist() for total in sums.values()]
    return [sum(column) for column in zip(*columns, strict=True)]
