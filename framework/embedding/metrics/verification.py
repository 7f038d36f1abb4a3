"""Verification of pairs: are both images of one class? Thresholds are chosen on other pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least

LARGEST_DISTANCE = 4
"""Largest squared distance of two vectors of norm 1."""


class FoldAccuracy(NamedTuple):
    """Accuracy over folds, each with the threshold that is best on the other folds.

    Args:
        mean: Mean accuracy (), float64.
        std: Population standard deviation over the folds ().
        threshold: Mean threshold of the squared distance ().
    """

    mean: Tensor
    std: Tensor
    threshold: Tensor


class ValAtFar(NamedTuple):
    """Accepted share of the pairs of one class at a rate of false acceptances, over folds.

    Args:
        val: Mean validation rate (), float64.
        std: Population standard deviation over the folds ().
        far: Mean false acceptance rate on the held-out folds (), the one that was asked for on the
            others.
    """

    val: Tensor
    std: Tensor
    far: Tensor


def fold_accuracy(distances: Tensor, same: Tensor, num_folds: int = 10) -> FoldAccuracy:
    """Return the accuracy of pairs over contiguous folds, as on Labeled Faces in the Wild.

    Among the thresholds 0, 0.01, ..., 3.99 the first of those with the best accuracy on the other
    folds decides on a fold: a pair is of one class where its distance is below.

    Args:
        distances: Squared distances of vectors of norm 1, (M,), in the order of the folds.
        same: Whether each pair is of one class, (M,) bool.
        num_folds: Number of folds, of which the first M mod ``num_folds`` have one pair more.

    Raises:
        ValueError: Shapes differ, or there are fewer than 2 folds, or fewer pairs than folds.

    Example:
        >>> distances = torch.tensor([0.3, 1.2, 0.2, 1.5])
        >>> same = torch.tensor([True, False, True, False])
        >>> float(fold_accuracy(distances, same, num_folds=2).mean)
        0.75
    """
    check_at_least(2, num_folds=num_folds)
    correct, per_fold, thresholds = _correct_per_fold(distances, same, num_folds, steps=100)
    # the first maximum, as argmax promises
    best = (correct.sum(0) - correct).argmax(1)
    accuracy = correct.gather(1, best[:, None])[:, 0] / per_fold
    return FoldAccuracy(accuracy.mean(), accuracy.std(correction=0), thresholds[best].mean())


def best_threshold_accuracy(distances: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best accuracy that any threshold has on these very pairs, and the threshold.

    It is optimistic: no number for a table beside those of ``fold_accuracy``.

    Args:
        distances: Squared distances of vectors of norm 1, (M,).
        same: Whether each pair is of one class, (M,) bool.

    Returns:
        Accuracy () and the first of the best thresholds on the grid of ``fold_accuracy`` ().
    """
    correct, pairs, thresholds = _correct_per_fold(distances, same, num_folds=1, steps=100)
    best = correct[0].argmax()
    return correct[0, best] / pairs[0], thresholds[best]


def val_at_far(distances: Tensor, same: Tensor, far: float = 1e-3, num_folds: int = 10) -> ValAtFar:
    """Return the accepted share of pairs of one class, with thresholds from the other folds.

    The threshold is interpolated linearly between those of 0, 0.001, ..., 3.999 at which the other
    folds have the rates of false acceptances around ``far``; of several with one rate the last
    counts. It is 0 where that rate is never reached. Folds without pairs of one class, or of two,
    have no part in the mean of their rate.

    Args:
        distances: Squared distances of vectors of norm 1, (M,), in the order of the folds.
        same: Whether each pair is of one class, (M,) bool.
        far: Rate of false acceptances.
        num_folds: Number of folds.
    """
    check_at_least(2, num_folds=num_folds)
    fold = _folds(len(distances), num_folds, distances.device)
    accepted, pairs, thresholds = _accepted_per_fold(distances, same, fold, num_folds, steps=1000)
    others = accepted[0].sum(0) - accepted[0], pairs[0].sum() - pairs[0]
    rate = others[0] / others[1][:, None]
    limit = _interpolated(rate, thresholds, far)
    below = distances.double() < limit[fold]
    shares = []
    for kind in (same, ~same):
        number = torch.bincount(fold[kind], minlength=num_folds).double()
        shares.append(torch.bincount(fold[kind & below], minlength=num_folds) / number)
    val, realized = shares
    mean = val.nanmean()
    return ValAtFar(mean, (val - mean).square().nanmean().sqrt(), realized.nanmean())


def _interpolated(rate: Tensor, thresholds: Tensor, far: float) -> Tensor:
    """Return the threshold (F,) at which a rate (F, T), which rises with them, is ``far``."""
    wanted = rate.new_full((len(rate), 1), far)
    # the last threshold of the rate below, and of the first one that is not below
    below = torch.searchsorted(rate, wanted) - 1
    reached = below + 1 < rate.shape[1]
    above = (below + 1).clamp(max=rate.shape[1] - 1)
    value = rate.gather(1, above)
    above = torch.searchsorted(rate, value, right=True) - 1
    below = below.clamp(min=0)
    low, high = rate.gather(1, below), value
    share = torch.where(high > low, (wanted - low) / (high - low), 1.0).clamp(0, 1)
    limit = torch.lerp(thresholds[below], thresholds[above], share)
    return torch.where(reached & (rate.amax(1, keepdim=True) >= far), limit, 0)[:, 0]


def _correct_per_fold(
    distances: Tensor, same: Tensor, num_folds: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return correct decisions (F, T), pairs (F,), and thresholds (T,), in float64."""
    fold = _folds(len(distances), num_folds, distances.device)
    accepted, pairs, thresholds = _accepted_per_fold(distances, same, fold, num_folds, steps)
    correct = accepted[1] + (pairs[0][:, None] - accepted[0])
    return correct, pairs.sum(0), thresholds


def _accepted_per_fold(
    distances: Tensor, same: Tensor, fold: Tensor, num_folds: int, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many pairs of two classes and of one lie below each threshold, by fold.

    Returns:
        Accepted pairs (2, F, T), pairs (2, F), and thresholds (T,), all float64.
    """
    if same.shape != distances.shape or distances.ndim != 1:
        raise ValueError(
            f"distances and same must both be (M,), got {tuple(distances.shape)} and "
            f"{tuple(same.shape)}."
        )
    count = LARGEST_DISTANCE * steps
    thresholds = torch.arange(count, device=distances.device, dtype=torch.float64) / steps
    # the first threshold above a distance, or count; a distance is below that one and all after it
    first = torch.searchsorted(thresholds, distances.double(), right=True)
    cell = (same.long() * num_folds + fold) * (count + 1) + first
    table = torch.bincount(cell, minlength=2 * num_folds * (count + 1))
    # whole numbers, whose sums a GPU makes in a fixed order
    table = table.view(2, num_folds, count + 1)
    return table.cumsum(2)[..., :count].double(), table.sum(2).double(), thresholds


def _folds(number: int, num_folds: int, device: torch.device) -> Tensor:
    """Return the fold of each of a number of pairs in order."""
    check_at_least(1, num_folds=num_folds)
    if number < num_folds:
        raise ValueError(f"{number} pairs cannot be put in {num_folds} folds.")
    place = torch.arange(number, device=device)
    size, longer = divmod(number, num_folds)
    edge = longer * (size + 1)
    return torch.where(place < edge, place // (size + 1), longer + (place - edge) // size)
