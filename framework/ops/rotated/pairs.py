"""Which horizontal boxes meet, found by a sweep along x rather than by comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# pairs whose x ranges meet, compared at a time: bounds the memory
_CHUNK = 2**21


def overlapping_pairs(
    a: Tensor, b: Tensor, group_a: Tensor | None = None, group_b: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return all pairs of polygons of one group whose horizontal boxes meet.

    Args:
        a: (N, V, 2) finite corners.
        b: (M, V, 2).
        group_a: (N,) int64, at least 0; default one group.
        group_b: (M,).

    Returns:
        Two (P,) int64 tensors, the row in ``a`` and that in ``b``, in no particular order.
    """
    low_a, high_a, low_b, high_b = a.amin(1), a.amax(1), b.amin(1), b.amax(1)
    shift_a, shift_b = _shifts(low_a, high_a, low_b, high_b, group_a, group_b)
    found: list[tuple[Tensor, Tensor]] = []
    # of two ranges that meet, one starts within the other
    left_b, order_b = (low_b[:, 0] + shift_b).sort(stable=True)
    first = torch.searchsorted(left_b, low_a[:, 0] + shift_a)
    last = torch.searchsorted(left_b, high_a[:, 0] + shift_a, right=True)
    for i, place in _expand(first, last):
        found.append(_with_common_y(i, order_b[place], low_a, high_a, low_b, high_b))
    left_a, order_a = (low_a[:, 0] + shift_a).sort(stable=True)
    first = torch.searchsorted(left_a, low_b[:, 0] + shift_b, right=True)
    last = torch.searchsorted(left_a, high_b[:, 0] + shift_b, right=True)
    for j, place in _expand(first, last):
        found.append(_with_common_y(order_a[place], j, low_a, high_a, low_b, high_b))
    return _joined(found, a.device)


def overlapping_pairs_within(a: Tensor, group: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the pairs i < j of polygons of one group whose horizontal boxes meet, each once.

    Args:
        a: (N, V, 2) finite corners.
        group: (N,) int64, at least 0; default one group.

    Returns:
        Two (P,) int64 tensors, i and j, in no particular order.
    """
    low, high = a.amin(1), a.amax(1)
    shift, _ = _shifts(low, high, low, high, group, group)
    left, order = (low[:, 0] + shift).sort(stable=True)
    last = torch.searchsorted(left, (high[:, 0] + shift)[order], right=True)
    first = torch.arange(1, len(a) + 1, device=a.device)
    found = []
    for row, place in _expand(first, torch.maximum(first, last)):
        i, j = _with_common_y(order[row], order[place], low, high, low, high)
        found.append((torch.minimum(i, j), torch.maximum(i, j)))
    return _joined(found, a.device)


def _shifts(
    low_a: Tensor,
    high_a: Tensor,
    low_b: Tensor,
    high_b: Tensor,
    group_a: Tensor | None,
    group_b: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return what moves every group to a range of x of its own."""
    if group_a is None or group_b is None or not len(low_a) or not len(low_b):
        return low_a.new_zeros(len(low_a)), low_b.new_zeros(len(low_b))
    span = torch.maximum(high_a.max(), high_b.max()) - torch.minimum(low_a.min(), low_b.min())
    # the gap of more than a range keeps groups apart whatever rounding does
    step = 2 * span + 1
    return group_a * step, group_b * step


def _expand(first: Tensor, last: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row i beside each of ``first[i]..last[i] - 1``, in chunks."""
    counts = last - first
    ends = counts.cumsum(0)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, done + _CHUNK, right=True)))
        rows = torch.arange(start, stop, device=first.device).repeat_interleave(counts[start:stop])
        within = torch.arange(len(rows), device=first.device) - (ends - counts - done)[rows]
        yield rows, first[rows] + within
        start = stop


def _with_common_y(
    i: Tensor, j: Tensor, low_a: Tensor, high_a: Tensor, low_b: Tensor, high_b: Tensor
) -> tuple[Tensor, Tensor]:
    meet = (low_a[:, 1][i] <= high_b[:, 1][j]) & (low_b[:, 1][j] <= high_a[:, 1][i])
    return i[meet], j[meet]


def _joined(found: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty
    i, j = (torch.cat(part) for part in zip(*found, strict=True))
    return i, j
