"""The largest entries of a matrix, per row, per column or overall, over the rows of all ranks.

Every function is exact and breaks ties the same way everywhere: of equal entries the one that comes
first in the global batch, read row by row, is taken. -0 equals 0, and NaN counts as minus infinity.
Entries are compared in float32. On one process no GPU is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from framework.distributed.collectives import (
    all_to_all,
    gather,
    rank,
    rows_per_rank,
    world_size,
)
from framework.utilities.checks import check_at_least
from framework.utilities.counts import count_values
from framework.utilities.devices import to_device

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
    return _best_of_rows(scores.detach().float(), number, k, k * len(scores))[1].view(-1, k)


@torch.no_grad()
def top_overall(scores: Tensor, k: int, *, per_row: bool = False, sync: bool = True) -> Tensor:
    """Return where the ``k`` largest entries of the whole matrix stand.

    The k-th largest entry decides. On several ranks each sends the largest of its own, about
    ``k / W`` numbers, and the matrix stays where it is. A CPU looks at what lies above a bound
    estimated from a sample; the bound costs time when it is bad, never exactness.

    Args:
        scores: (B_r, F) rows of this rank.
        k: Number of entries of the global matrix, in 0..B F.
        per_row: Whether ``k`` is the mean number of entries per row instead, in 0..F.
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
    rows = rows_per_rank(len(scores), scores.device) if sync else [len(scores)]
    k = k * sum(rows) if per_row else k
    entries = [number * scores.shape[1] for number in rows]
    if k > sum(entries):
        raise ValueError(f"k is {k}, but there are only {sum(entries)} entries.")
    if k == 0:
        return torch.arange(0, device=scores.device)
    flat = scores.detach().float().flatten()
    candidates = _candidates(flat, k)
    pool = _comparable(flat if candidates is None else flat[candidates])
    threshold, ties, number = _shared_threshold(pool, k, entries)
    chosen = _above(pool, threshold, ties)
    positions = chosen.nonzero_static(size=number).squeeze(1)
    return positions if candidates is None else candidates[positions]


@torch.no_grad()
def top_per_column(scores: Tensor, budgets: Tensor, *, sync: bool = True) -> Tensor:
    """Return where the ``budgets[i]`` largest entries of every column i stand.

    With several ranks each of them owns a slice of the columns: entries travel to the owner in one
    all-to-all, and the places of the chosen ones, a small part, travel back.

    Args:
        scores: (B_r, F) rows of this rank.
        budgets: (F,) int64, each in 0..B, the same on every rank; best on the CPU, where sizes
            are needed.
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
    budgets = budgets.cpu()
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
    wanted = _and_more(k / _SAMPLE_STRIDE)
    # a GPU would be waited for, to know how many there are
    if flat.device.type != "cpu" or len(flat) < _SMALL or 2 * wanted > len(sample):
        return None
    bound = sample.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    positions = (flat >= bound.topk(wanted, sorted=False).values.min()).nonzero().squeeze(1)
    return positions if len(positions) >= k else None


def _and_more(expected: float) -> int:
    """Return a number that one drawn with this mean hardly ever exceeds."""
    return math.ceil(expected + 4 * math.sqrt(expected) + 4)


def _shared_threshold(
    pool: Tensor, k: int, entries: Sequence[int]
) -> tuple[Tensor, int | Tensor, int]:
    """Return the k-th largest entry of all, how many of those equal to it stay here, and of all.

    Every rank sends as many of its largest as it is likely to have among the ``k``. Where one of
    them has more, which shows in the smallest that it sent, all send up to ``k``.
    """
    if len(entries) == 1:
        threshold = pool.topk(k, sorted=False).values.min()
        return threshold, k - (pool > threshold).sum(), k
    ranks, own = len(entries), rank()
    for most in (min(k, _and_more(k / ranks)), k):
        sent = [min(most, number) for number in entries]
        if sum(sent) < k:
            continue
        # NaN, as padding, compares as neither above nor equal
        mine = pool.new_full((most,), torch.nan)
        mine[: sent[own]] = pool.topk(sent[own], sorted=False).values
        all_sent = gather(mine[None], [1] * ranks)
        threshold = all_sent.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        threshold = threshold.flatten().topk(k, sorted=False).values.min()
        above, tied = (all_sent > threshold).sum(1), (all_sent == threshold).sum(1)
        more = (all_sent.amin(1) >= threshold).any()
        *numbers, is_short = torch.cat([above, tied, more[None]]).tolist()
        if most == k or not is_short:
            break
    missing = k - sum(numbers[:ranks])
    before = sum(numbers[ranks : ranks + own])
    ties = max(0, min(missing - before, numbers[ranks + own]))
    return threshold, ties, numbers[own] + ties


# ---- per row, with a number for each -------------------------------------------------------------


def _top_of_rows(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the ``counts[i]`` largest entries of every row i.

    Rows are taken in groups of similar counts, so that a few large ones do not make all of them
    expensive.
    """
    width = x.shape[1]
    if len(counts) and int(counts.max()) > width:
        raise ValueError(f"A budget of {int(counts.max())} exceeds the batch of {width} rows.")
    groups = _groups_of_similar(counts)
    if not groups:
        return x.new_empty(0, dtype=torch.int64), x.new_empty(0, dtype=torch.int64)
    # all of them in one copy, for which no GPU is waited
    order = torch.cat(groups)
    packed = to_device(torch.stack([order, counts[order]]), x.device)
    parts = packed.split([len(group) for group in groups], dim=1)
    rows, columns = [], []
    for group, (places, number) in zip(groups, parts, strict=True):
        most, total = int(counts[group].max()), int(counts[group].sum())
        part = x if len(group) == len(x) else x[places]
        row, column = _best_of_rows(part, number, most, total)
        rows.append(places[row])
        columns.append(column)
    return torch.cat(rows), torch.cat(columns)


def _groups_of_similar(counts: Tensor) -> list[Tensor]:
    """Return the places of the counts above 0, by powers of two."""
    groups = []
    most = int(counts.max()) if len(counts) else 0
    upper = 1
    while upper < 2 * most:
        group = ((counts > upper // 2) & (counts <= upper)).nonzero().squeeze(1)
        if len(group):
            groups.append(group)
        upper *= 2
    return groups


def _best_of_rows(x: Tensor, number: Tensor, most: int, total: int) -> tuple[Tensor, Tensor]:
    """Return row and column of the ``number[i]`` largest entries of every row i, row by row.

    Args:
        x: (R, C) float32.
        number: (R,) int64, at least 1.
        most: Largest number.
        total: Sum of the numbers.
    """
    if x.device.type != "cpu":
        return _best_by_bound(x, number, most, total)
    columns = _best_columns(x, number, most)
    if total == len(x) * most:
        rows = torch.arange(len(x)).repeat_interleave(most)
        return rows, columns.flatten()
    taken = torch.arange(most) < number[:, None]
    return torch.arange(len(x)).repeat_interleave(number), columns[taken]


def _best_by_bound(x: Tensor, number: Tensor, most: int, total: int) -> tuple[Tensor, Tensor]:
    """Return what ``_best_of_rows`` does, by more work, but nothing that a GPU is waited for."""
    x, number = _comparable(x), number[:, None]
    bound = x.topk(most, dim=1).values.gather(1, number - 1)
    ties = number - (x > bound).sum(1, keepdim=True)
    row, column = _above(x, bound, ties).nonzero_static(size=total).unbind(1)
    return row, column


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
    feature, column = _top_of_rows(torch.cat(blocks, dim=1), counts[bounds[own] : bounds[own + 1]])
    owner, place = torch.zeros_like(column), column
    for r in range(1, ranks):
        is_later = column >= sum(widths[:r])
        owner = owner + is_later
        place = place - widths[r - 1] * is_later
    order = owner.argsort(stable=True)
    answer = torch.stack([feature + bounds[own], place], dim=1)[order]
    back, _ = all_to_all(answer, count_values(owner, ranks).tolist())
    return back[:, 0], back[:, 1]


# ---- what all of them need -----------------------------------------------------------------------


def _above(x: Tensor, bound: Tensor, ties: Tensor | int) -> Tensor:
    """Mark what is above the bound, and the first ``ties`` entries of each row equal to it."""
    tied = x == bound
    return (x > bound) | (tied & (tied.cumsum(-1, dtype=torch.int32) <= ties))


def _check_matrix(scores: Tensor) -> None:
    if scores.ndim != 2:
        raise ValueError(f"scores must be a matrix (B, F), got shape {tuple(scores.shape)}.")


def _comparable(values: Tensor) -> Tensor:
    """Return ``values`` without -0 and NaN."""
    return torch.where(values.isnan(), -torch.inf, values + 0.0)


def _sorted_columns(x: Tensor) -> Tensor:
    return _comparable(x).sort(dim=1, descending=True, stable=True).indices
