"""Precision at every recall, and its average, by the rules of the three usual benchmarks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_one_of

Interpolation = Literal["voc07", "voc12", "coco101"]


def precision_recall(correct: Tensor, positives: int) -> tuple[Tensor, Tensor]:
    """Return recall and precision after each of the ranked detections.

    Args:
        correct: (N,) bool, by descending score: a true positive rather than a false one.
        positives: Number of objects to be found, at least 1.

    Returns:
        Recall and precision, (N,) float64 each.
    """
    found = correct.double().cumsum(0)
    seen = torch.arange(1, len(correct) + 1, device=correct.device)
    return found / positives, found / seen


def interpolated_precision(recall: Tensor, precision: Tensor, at: Tensor) -> Tensor:
    """Return the largest precision at a recall of at least ``at``, 0 where none is reached.

    Args:
        recall: (N,) not descending.
        precision: (N,).
        at: (R,) float64.

    Returns:
        (R,) float64.
    """
    best = precision.flip(0).cummax(0).values.flip(0)
    best = torch.cat([best, best.new_zeros(1)])
    return best[torch.searchsorted(recall, at)]


def average_precision(recall: Tensor, precision: Tensor, interpolation: Interpolation) -> Tensor:
    """Return the average precision, a float64 scalar.

    Args:
        recall: (N,) not descending, of ``precision_recall``.
        precision: (N,).
        interpolation: Integration rule: ``'voc07'``, the mean over the recalls 0, 0.1, ..., 1;
            ``'coco101'``, over 0, 0.01, ..., 1; or ``'voc12'``, the area under the precision that
            never rises.

    Raises:
        ValueError: another ``interpolation``.

    Example:
        >>> import torch
        >>> from framework.detection.average_precision import average_precision, precision_recall
        >>> curve = precision_recall(torch.tensor([True, False, True]), positives=4)
        >>> average_precision(*curve, "voc07"), average_precision(*curve, "voc12")
        (tensor(0.4545, dtype=torch.float64), tensor(0.4167, dtype=torch.float64))
    """
    check_one_of(get_args(Interpolation), interpolation=interpolation)
    if interpolation == "voc12":
        steps = recall.diff(prepend=recall.new_zeros(1))
        return (steps * interpolated_precision(recall, precision, recall)).sum()
    points = 11 if interpolation == "voc07" else 101
    return interpolated_precision(recall, precision, recall_grid(points, recall.device)).mean()


def recall_grid(points: int, device: torch.device) -> Tensor:
    """Return ``points`` recalls from 0 to 1, (points,) float64.

    They are k times the step, as the benchmarks compute them: 3 * 0.1 exceeds a recall of 3 / 10 by
    one rounding.
    """
    return torch.arange(points, dtype=torch.float64, device=device) * (1 / (points - 1))
