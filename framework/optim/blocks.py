"""Pieces of tensors that fit into a CPU's cache, for several operations in a row on each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

Triple = tuple[Tensor, Tensor, Tensor]
"""Weight, gradient and momentum of one parameter or of a piece of it, all real."""

BLOCK = 1 << 20
"""Entries of a piece: enough for the calls to cost little, few enough to stay in the cache."""


def blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Cut tensors of one shape into pieces of their storage that belong together.

    Tensors that are small, are not on a CPU or lie in memory in different orders stay whole.

    Example:
        >>> [len(piece) for (piece,) in blocks(torch.zeros(2 * BLOCK + 1))]
        [1048576, 1048576, 1]
    """
    first = tensors[0]
    equal = all(t.stride() == first.stride() for t in tensors)
    if first.numel() <= BLOCK or not equal or not all(is_dense(t) for t in tensors):
        return [tensors]
    flat = (t.as_strided((t.numel(),), (1,), t.storage_offset()).split(BLOCK) for t in tensors)
    return list(zip(*flat, strict=True))


def in_lists(
    triples: Sequence[Triple], foreach: bool | None
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Yield lists of weights, gradients and momenta for ``torch._foreach_*``.

    Args:
        triples: Weight, gradient and momentum of each parameter.
        foreach: Whether a list holds all tensors of a device and dtype, rather than one; None takes
            lists of one cache-sized block where all tensors are on a CPU, and long ones elsewhere.
    """
    on_cpu = all(weight.device.type == "cpu" for weight, _, _ in triples)
    if foreach or (foreach is None and not on_cpu):
        columns: Any = [list(column) for column in zip(*triples, strict=True)]
        for lists, _ in Optimizer._group_tensors_by_device_and_dtype(columns).values():
            yield cast(tuple[list[Tensor], list[Tensor], list[Tensor]], tuple(lists))
        return
    for triple in triples:
        for weight, gradient, momentum in blocks(*triple) if foreach is None else [triple]:
            yield [weight], [gradient], [momentum]


def is_dense(x: Tensor) -> bool:
    """Return whether ``x`` is a piece of CPU memory without gaps, which a DTensor is not."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    plain = type(x) in (Tensor, torch.nn.Parameter)
    return plain and x.device.type == "cpu" and dense
