"""TAR@FAR, ROC curve and histogram of scores that are too many to be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.embedding.metrics.roc import (
    RocCurve,
    TarAtFar,
    checked_rates,
    false_acceptances,
    thinned,
    unmeasurable,
)
from framework.ops.cosines import BLOCK, full_precision, unit

Blocks = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Returns the scores in [-1, 1] and whether each is of one class, (m,) each, a block at a time."""

BINS = 2**16
SHOWN_BINS = 128
MOST_ROWS = 256


class ScoreSummary(NamedTuple):
    """What is told of scores of pairs of one class and of two.

    Args:
        at_far: TAR at each FAR, exactly; NaN where it cannot be measured.
        roc: Some hundred points of the ROC curve, of thresholds that lie evenly.
        histogram: Number of pairs of two classes and of one, (2, 128), in equal parts of [-1, 1].
    """

    at_far: TarAtFar
    roc: RocCurve
    histogram: Tensor


def summarize_scores(blocks: Blocks, far: Sequence[float], device: torch.device) -> ScoreSummary:
    """Return TAR@FAR, the ROC curve and a histogram of scores, in two passes over them.

    The first one counts the scores in 65,536 parts of [-1, 1]; the second reads those of the parts
    in which the thresholds lie, so that these are as if all had been sorted.

    Args:
        blocks: Function that returns the blocks, the same each time.
        far: False acceptance rates.
        device: Device of the scores.
    """
    rates = checked_rates(far)
    table = torch.zeros(2, BINS, dtype=torch.int64, device=device)
    for scores, same in blocks():
        part = _bins(scores)
        one_class = torch.bincount(part[same], minlength=BINS)
        table[0] += torch.bincount(part, minlength=BINS) - one_class
        table[1] += one_class
    # pairs in a part and in those above it, of both kinds
    down = table.flip(1).cumsum(1).flip(1)
    negatives, positives = down[:, 0].tolist()
    unknown = unmeasurable(rates, negatives, positives)
    known = [rate for rate in rates if rate not in unknown]
    place = torch.tensor([false_acceptances(rate, negatives) for rate in known], device=device)
    # the last part down to which there are more pairs than may be accepted; 0 where all may be
    part = ((down[0] > place[:, None]).sum(1) - 1).clamp(min=0)
    values = torch.full((3, len(rates)), torch.nan, dtype=torch.float64, device=device)
    read = _scores_in(part.unique(), blocks) if known else None
    for number, rate in enumerate(known):
        assert read is not None
        above = down[:, part[number]] - table[:, part[number]]
        values[:, rates.index(rate)] = _at(place[number], part[number], above, read, down[:, 0])
    return ScoreSummary(TarAtFar(*values), _curve(down), table.view(2, SHOWN_BINS, -1).sum(2))


class _Scores(NamedTuple):
    """Distinct scores in falling order (n,), and the pairs of two classes and of one (2, n)."""

    score: Tensor
    pairs: Tensor


def _at(place: Tensor, part: Tensor, above: Tensor, read: _Scores, total: Tensor) -> Tensor:
    """Return TAR, threshold and realized FAR where ``place`` false pairs may be accepted.

    Args:
        place: Number of pairs, ().
        part: Part of [-1, 1] in which the threshold lies, ().
        above: Pairs of both kinds in the parts above, (2,).
        read: Scores in this part, and in others.
        total: All pairs of both kinds, (2,).
    """
    if place >= total[0]:
        one = total[0].double() / total[0]
        return torch.stack([one, one - torch.inf, one])
    inside = _bins(read.score) == part
    score, pairs = read.score[inside], read.pairs[:, inside]
    down = pairs.cumsum(1) + above[:, None]
    first = torch.searchsorted(down[0], place, right=True).clamp(max=len(score) - 1)
    false, true = ((down[:, first] - pairs[:, first]) / total.double()).unbind()
    return torch.stack([true, score[first].double(), false])


def _scores_in(parts: Tensor, blocks: Blocks) -> _Scores:
    """Return the scores that lie in some parts of [-1, 1]."""
    chosen = torch.zeros(BINS, dtype=torch.bool, device=parts.device)
    chosen[parts] = True
    found = []
    for scores, same in blocks():
        kept = chosen[_bins(scores)]
        # scores of embeddings that have become one are many, and few of them distinct
        score, row = scores[kept].unique(return_inverse=True)
        found.append(_Scores(score, _table(same[kept], row, len(score))))
    score, row = torch.cat([one.score for one in found]).unique(return_inverse=True)
    pairs = torch.zeros(2, len(score), dtype=torch.int64, device=parts.device)
    pairs.index_add_(1, row, torch.cat([one.pairs for one in found], 1))
    return _Scores(score.flip(0), pairs.flip(1))


def _bins(scores: Tensor) -> Tensor:
    """Return the part of [-1, 1] of each score; a higher score has no lower part."""
    # whole numbers of 32 bits are made and counted faster, and NaN is the lowest of them
    return scores.add(1).mul_(BINS // 2).int().clamp_(0, BINS - 1)


def _table(same: Tensor, column: Tensor, columns: int) -> Tensor:
    """Return how many pairs of two classes and of one are in each column, (2, columns)."""
    cells = torch.bincount(same.long() * columns + column, minlength=2 * columns)
    return cells.view(2, columns)


def _curve(down: Tensor) -> RocCurve:
    """Return the points of the ROC curve at the lower ends of the parts."""
    rates = down.flip(1) / down[:, :1].double()
    ends = torch.arange(BINS - 1, -1, -1, device=down.device) / (BINS // 2) - 1.0
    start = rates.new_zeros(1)
    far, tar = (torch.cat([start, rate]) for rate in rates)
    return thinned(RocCurve(far, tar, torch.cat([start + torch.inf, ends.double()])))


def histogram_of(scores: Tensor, same: Tensor) -> Tensor:
    """Return how many pairs of two classes and of one lie in each of 128 equal parts of [-1, 1].

    Args:
        scores: Similarities (M,).
        same: Whether each pair is of one class, (M,) bool.
    """
    return _table(same, _bins(scores) // (BINS // SHOWN_BINS), SHOWN_BINS)


def all_pairs(embedding: Tensor, label: Tensor, block: int = BLOCK) -> Blocks:
    """Return a function that yields the cosines of all pairs of different rows, each pair once.

    Args:
        embedding: (N, d), of norm 1.
        label: Class of each row, (N,).
        block: Similarities that are in memory at a time.
    """

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        # few rows at a time, as of those among themselves half the cosines are thrown away
        size = max(1, min(MOST_ROWS, block // max(1, len(embedding))))
        for start in range(0, len(embedding), size):
            end = min(start + size, len(embedding))
            with full_precision(embedding.device):
                similarity = embedding[start:end] @ embedding[start:].T
            same = label[start:end, None] == label[start:]
            inside = torch.ones_like(same[:, : end - start]).triu(1)
            yield similarity[:, : end - start][inside], same[:, : end - start][inside]
            if end < len(embedding):
                yield similarity[:, end - start :].flatten(), same[:, end - start :].flatten()

    return blocks


def summarize_all_pairs(
    embedding: Tensor, label: Tensor, far: Sequence[float] = (), block: int = BLOCK
) -> ScoreSummary:
    """Return TAR@FAR, exactly, the ROC curve and a histogram of all pairs of different rows.

    Memory does not grow with the number of pairs.

    Args:
        embedding: (N, d).
        label: Class of each row, (N,).
        far: False acceptance rates.
        block: Similarities that are in memory at a time.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> summary = summarize_all_pairs(points, torch.tensor([0, 0, 1, 1]), far=[0.0])
        >>> summary.at_far.tar.tolist(), summary.histogram.sum(1).tolist()
        ([1.0], [4, 2])
    """
    blocks = all_pairs(unit(embedding), label, block)
    return summarize_scores(blocks, far, embedding.device)
