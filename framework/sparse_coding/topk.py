"""The largest entries of a matrix, per row, per column or overall, over the rows of all ranks.

Every function is exact and breaks ties the same way everywhere: of equal entries the one that comes
first in the global batch, read row by row, is taken. -0 equals 0, and NaN counts as minus infinity.
Entries are compared in float32, whose bit patterns order like the numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.distributed.collectives import (
    all_reduce_sum,
    all_to_all,
    rank,
    rows_per_rank,
    world_size,
)
from framework.utilities.checks import check_at_least

# digits of a 32-bit key, most significant first: how far right it stands, and how wide it is
_DIGITS = ((21, 11), (10, 11), (0, 10))
_SAMPLE_STRIDE = 61
_SMALL = 2**14


@torch.no_grad()
def top_per_row(scores: Tensor, k: int) -> Tensor:
    """Return the columns of the ``k`` largest entries of every row.

    Args:
        scores: (B, F).
        k: Number of entries per row, in 0..F.

    Returns:
        (B, k) int64, in no particular order.

    Raises:
        ValueError: ``scores`` is no matrix or ``k`` is out of range.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.topk import top_per_row
        >>> top_per_row(torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]]), k=1)
        tensor([[1],
                [0]])
    """
    _check_matrix(scores)
    if not 0 <= k <= scores.shape[1]:
        raise ValueError(f"k must be in 0..{scores.shape[1]}, the number of columns, got {k}.")
    if k in (0, scores.shape[1]):
        return torch.arange(k, device=scores.device).repeat(len(scores), 1)
    number = torch.full((len(scores),), k, device=scores.device)
    return _best_columns(scores.detach().float(), number, k)


@torch.no_grad()
def top_overall(scores: Tensor, k: int, *, sync: bool = True) -> Tensor:
    """Return where the ``k`` largest entries of the whole matrix stand.

    A radix selection: three rounds count the digits of the candidates' bit patterns, add the counts
    of all ranks up (at most 16 KB each) and go on with the digit in which the k-th largest entry
    lies. The matrix itself stays where it is. Candidates are what lies above a bound estimated from
    a sample; the bound costs time when it is bad, never exactness.

    Args:
        scores: (B_r, F) rows of this rank.
        k: Number of entries of the global matrix, in 0..B F.
        sync: Whether to choose among the rows of all ranks, which is a collective call, rather than
            among this rank's.

    Returns:
        (n,) int64, ascending positions in the flattened ``scores``; n adds up to k over the ranks.

    Raises:
        ValueError: ``scores`` is no matrix or ``k`` is negative.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.topk import top_overall
        >>> top_overall(torch.tensor([[1.0, 3.0], [3.0, 2.0]]), k=2)
        tensor([1, 2])
    """
    _check_matrix(scores)
    check_at_least(0, k=k)
    flat = scores.detach().float().flatten()
    candidates = _candidates(flat, k)
    keys = _ordered_keys(_comparable(flat if candidates is None else flat[candidates]))
    across = sync and world_size() > 1
    threshold, missing = _kth_largest(keys, k, across)
    chosen = keys > threshold
    tied = (keys == threshold).nonzero().squeeze(1)
    before = 0
    if across:
        before = sum(rows_per_rank(len(tied), tied.device)[: rank()])
    chosen[tied[: max(0, missing - before)]] = True
    positions = chosen.nonzero().squeeze(1)
    return positions if candidates is None else candidates[positions]


@torch.no_grad()
def top_per_column(scores: Tensor, budgets: Tensor, *, sync: bool = True) -> Tensor:
    """Return where the ``budgets[i]`` largest entries of every column i stand.

    With several ranks each of them owns a slice of the columns: entries travel to the owner in one
    all-to-all, and the places of the chosen ones, a small part, travel back.

    Args:
        scores: (B_r, F) rows of this rank.
        budgets: (F,) int64, each in 0..B, the same on every rank.
        sync: Whether to choose among the rows of all ranks, which is a collective call, rather than
            among this rank's.

    Returns:
        (n,) int64, ascending positions in the flattened ``scores``.

    Raises:
        ValueError: ``scores`` is no matrix, or ``budgets`` is not one int64 per column.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.topk import top_per_column
        >>> top_per_column(torch.tensor([[1.0, 3.0], [3.0, 2.0]]), torch.tensor([1, 2]))
        tensor([1, 2, 3])
    """
    _check_matrix(scores)
    columns = scores.shape[1]
    if budgets.shape != (columns,) or budgets.dtype != torch.int64:
        raise ValueError(
            f"budgets must be ({columns},) int64, one per column, got {budgets.dtype} of shape "
            f"{tuple(budgets.shape)}."
        )
    by_column = scores.detach().float().t().contiguous()
    if not sync or world_size() == 1:
        feature, row = _top_of_rows(by_column, budgets)
    else:
        feature, row = _top_of_shared_rows(by_column, budgets)
    return (row * columns + feature).sort().values


# ---- the k-th largest of all ---------------------------------------------------------------------


def _candidates(flat: Tensor, k: int) -> Tensor | None:
    """Return ascending positions among which all of the ``k`` largest are, or None for all.

    An entry below ``k`` entries of its own rank is not among the ``k`` largest of all ranks, so
    the ranks need not agree on a bound.
    """
    sample = flat[::_SAMPLE_STRIDE]
    expected = k / _SAMPLE_STRIDE
    wanted = math.ceil(expected + 4 * math.sqrt(expected) + 4)
    if len(flat) < _SMALL or 2 * wanted > len(sample):
        return None
    bound = sample.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    positions = (flat >= bound.topk(wanted, sorted=False).values.min()).nonzero().squeeze(1)
    return positions if len(positions) >= k else None


def _ordered_keys(values: Tensor) -> Tensor:
    """Return int64 keys in 0..2**32-1 that order as the float32 ``values`` do."""
    bits = values.view(torch.int32)
    # of negative numbers the larger bit pattern is the smaller number
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() + 2**31


def _kth_largest(keys: Tensor, k: int, across: bool) -> tuple[int, int]:
    """Return the k-th largest key, and how many of the keys equal to it are among the k."""
    if k == 0:
        return 2**32, 0
    threshold, missing = 0, k
    for shift, width in _DIGITS:
        digits = (keys >> shift) & (2**width - 1)
        counts = torch.bincount(digits, minlength=2**width)
        if across:
            counts = all_reduce_sum(counts)
        from_top = counts.flip(0).cumsum(0)
        place = int((from_top < missing).sum())
        if place == len(from_top):
            raise ValueError(f"k is {k}, but there are only {int(from_top[-1])} entries.")
        missing -= int(from_top[place - 1]) if place else 0
        digit = 2**width - 1 - place
        threshold |= digit << shift
        keys = keys[digits == digit]
    return threshold, missing


# ---- per row, with a number for each -------------------------------------------------------------


def _top_of_rows(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the ``counts[i]`` largest entries of every row i.

    Rows are taken in groups of similar counts, so that a few large ones do not make all of them
    expensive.
    """
    width = x.shape[1]
    counts = counts.to(x.device)
    if len(counts) and int(counts.max()) > width:
        raise ValueError(f"A budget of {int(counts.max())} exceeds the batch of {width} rows.")
    rows, columns = [], []
    upper = 1
    while True:
        group = ((counts > upper // 2) & (counts <= upper)).nonzero().squeeze(1)
        if len(group):
            part, number = (x if len(group) == len(x) else x[group]), counts[group]
            best = _best_columns(part, number, min(upper, width))
            taken = torch.arange(best.shape[1], device=x.device) < number[:, None]
            columns.append(best[taken])
            rows.append(group.repeat_interleave(number))
        if upper >= width:
            break
        upper *= 2
    if not rows:
        return counts[:0], counts[:0]
    return torch.cat(rows), torch.cat(columns)


def _best_columns(x: Tensor, number: Tensor, most: int) -> Tensor:
    """Return (R, most) columns, of which the first ``number[i]`` are the largest of row i."""
    if 4 * most >= x.shape[1]:
        return _sorted_columns(x)[:, :most]
    # torch's choice among equal entries is arbitrary; one entry more shows whether it had one
    values, columns = x.topk(most + 1, dim=1)
    number = number[:, None]
    unsure = (values.gather(1, number - 1) == values.gather(1, number)).squeeze(1)
    # NaN comes first
    unsure |= values[:, 0].isnan()
    if unsure.any():
        columns[unsure] = _sorted_columns(x[unsure])[:, : most + 1]
    return columns[:, :most]


def _top_of_shared_rows(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``_top_of_rows`` does where every rank has some columns of each row."""
    ranks, own = world_size(), rank()
    features, width = x.shape
    widths = rows_per_rank(width, x.device)
    bounds = [features * r // ranks for r in range(ranks + 1)]
    mine = bounds[own + 1] - bounds[own]
    sent = [(bounds[r + 1] - bounds[r]) * width for r in range(ranks)]
    arrived, sizes = all_to_all(x.flatten(), sent)
    blocks = [
        block.view(mine, columns)
        for block, columns in zip(arrived.split(sizes), widths, strict=True)
    ]
    feature, column = _top_of_rows(
        torch.cat(blocks, dim=1), counts[bounds[own] : bounds[own + 1]].to(x.device)
    )
    ends = torch.tensor(widths, device=x.device).cumsum(0)
    owner = torch.searchsorted(ends, column, right=True)
    starts = ends - torch.tensor(widths, device=x.device)
    order = owner.argsort(stable=True)
    answer = torch.stack([feature + bounds[own], column - starts[owner]], dim=1)[order]
    back, _ = all_to_all(answer, torch.bincount(owner, minlength=ranks).tolist())
    return back[:, 0], back[:, 1]


# ---- what all of them need -----------------------------------------------------------------------


def _check_matrix(scores: Tensor) -> None:
    if scores.ndim != 2:
        raise ValueError(f"scores must be a matrix (B, F), got shape {tuple(scores.shape)}.")


def _comparable(values: Tensor) -> Tensor:
    """Return ``values`` without -0 and NaN."""
    return torch.where(values.isnan(), -torch.inf, values + 0.0)


def _sorted_columns(x: Tensor) -> Tensor:
    return _comparable(x).sort(dim=1, descending=True, stable=True).indices
