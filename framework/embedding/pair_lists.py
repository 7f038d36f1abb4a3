"""Lists of pairs that are drawn from labeled images."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.embedding.pairs import Pairs
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


def balanced_pairs(
    label: Tensor, num_pairs: int = 6000, num_folds: int = 10, seed: int = 0
) -> Pairs:
    """Draw pairs of different images, half of them of one class, without repetition.

    The list has the form of that of LFW: each fold has its pairs of one class first, and then as
    many of two classes. All pairs of one class are equally likely, and so are those of two.

    Args:
        label: Class of each image (N,) int64.
        num_pairs: Number of pairs; fewer are drawn where there are no more.
        num_folds: Number of folds, all of one size.
        seed: Seed that alone determines the list of these images.

    Returns:
        The pairs, whose number is a multiple of twice the number of folds.

    Raises:
        ValueError: not enough images for one pair of each kind in each fold.

    Example:
        >>> pairs = balanced_pairs(torch.arange(6) // 2, num_folds=3)
        >>> pairs.count, pairs.same.tolist()
        (6, [True, False, True, False, True, False])
    """
    check_at_least(1, num_folds=num_folds)
    check_at_least(2 * num_folds, num_pairs=num_pairs)
    order = label.argsort(stable=True)
    _, count = label.unique(return_counts=True)
    place, rows = torch.arange(len(label)), torch.full((len(label),), len(label))
    end = count.cumsum(0).repeat_interleave(count)  # of each image's class in that order
    total_same, total_other = int((end - place - 1).sum()), int((rows - end).sum())
    per_fold = min(num_pairs // 2, total_same, total_other) // num_folds
    if per_fold == 0:
        raise ValueError(
            f"{len(label)} images of {len(count)} classes make {total_same} pairs of one class and "
            f"{total_other} of two, too few for {num_folds} folds."
        )
    generator = torch.Generator().manual_seed(stable_seed(seed, "pairs"))
    drawn = per_fold * num_folds
    # an image is paired with those behind it: of its class, and of the classes behind its own
    same = _unranked(_distinct(total_same, drawn, generator), place + 1, end)
    other = _unranked(_distinct(total_other, drawn, generator), end, rows)
    folds = torch.stack([part.view(2, num_folds, per_fold) for part in (same, other)], 2)
    first, second = order[folds.reshape(2, -1)]
    is_same = torch.tensor([True, False]).repeat_interleave(per_fold).repeat(num_folds)
    return Pairs(first=first, second=second, same=is_same, num_folds=num_folds)


def _distinct(number: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` different ones of the first ``number`` integers, in random order."""
    if number <= 8 * count:
        return torch.randperm(number, generator=generator)[:count]
    found: dict[int, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(torch.randint(number, (count,), generator=generator).tolist()))
    return torch.tensor(list(found)[:count])


def _unranked(rank: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Return the first and the second place (2, n) of pairs that are numbered by their first one.

    Args:
        rank: Numbers of the pairs.
        begin: First of the places that each place is paired with, (N,).
        end: Place after the last one.
    """
    last = (end - begin).cumsum(0)
    first = torch.searchsorted(last, rank, right=True)
    return torch.stack([first, end[first] - last[first] + rank])
