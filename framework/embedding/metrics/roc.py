"""Accepted pairs of one class over falsely accepted ones: the ROC curve and points of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from framework.utilities.checks import check_interval, check_one_of

Mode = Literal["exact", "nearest"]


class TarAtFar(NamedTuple):
    """True acceptance rate at each of F false acceptance rates.

    Args:
        tar: Accepted share of the pairs of one class, (F,) float64; NaN where it is not known.
        threshold: Score (F,) above which a pair is accepted; in mode ``"nearest"`` from which on.
        far: Accepted share of the pairs of two classes, (F,), as it came about.
    """

    tar: Tensor
    threshold: Tensor
    far: Tensor


class RocCurve(NamedTuple):
    """Points of a ROC curve by falling threshold, the first one (0, 0).

    Args:
        far: False acceptance rate of each point, (P,) float64.
        tar: True acceptance rate (P,).
        threshold: Score (P,) from which on pairs are accepted, infinite for the first point.
    """

    far: Tensor
    tar: Tensor
    threshold: Tensor


def tar_at_far(
    scores: Tensor, same: Tensor, far: float | Sequence[float], mode: Mode = "exact"
) -> TarAtFar:
    """Return the true acceptance rate at rates F of false acceptance, as of 1:1 verification.

    Exactly, of N pairs of two classes floor(F N) are accepted at most: the threshold is the score
    of the next one, and only scores above it are accepted. ``"nearest"`` takes the point of the ROC
    curve with the nearest rate, which may exceed F, as InsightFace and UNPG do. A rate above 0 for
    which N is too small, F N < 1, cannot be measured: it is NaN. A score that is NaN is not
    accepted.

    Args:
        scores: Similarities of the pairs, (M,).
        same: Whether each pair is of one class, (M,) bool.
        far: False acceptance rate F, or several.
        mode: How the threshold is chosen.

    Example:
        >>> scores = torch.tensor([0.9, 0.8, 0.75, 0.4, 0.7, 0.3, 0.2, 0.1, 0.05, 0.0])
        >>> tar_at_far(scores, torch.arange(10) < 4, [0, 1 / 6]).tar.tolist()
        [0.75, 1.0]
    """
    check_one_of(("exact", "nearest"), mode=mode)
    rates = checked_rates(far)
    scores = _ranked(scores)
    negative, positive = scores[~same].sort().values, scores[same].sort().values
    unknown = unmeasurable(rates, len(negative), len(positive))
    warn_of(unknown, len(negative), len(positive))
    if mode == "nearest" and len(negative) and len(positive):
        found = _nearest(scores, same, rates)
    else:
        found = _exact(positive, negative, rates)
    lost = torch.tensor([rate in unknown for rate in rates], device=scores.device)
    return TarAtFar(*(value.double().masked_fill(lost, torch.nan) for value in found))


def roc_curve(scores: Tensor, same: Tensor) -> RocCurve:
    """Return the ROC curve, a point for every distinct score, of which NaN is the lowest.

    Args:
        scores: Similarities of the pairs, (M,).
        same: Whether each pair is of one class, (M,) bool.

    Example:
        >>> curve = roc_curve(torch.tensor([0.9, 0.4, 0.7]), torch.tensor([True, True, False]))
        >>> curve.far.tolist(), curve.tar.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    false, true, threshold = _accepted(scores, same)
    return _curve(false, true, threshold)


def thinned(curve: RocCurve, points: int = 400) -> RocCurve:
    """Return a part of a ROC curve that looks like the whole on a logarithmic axis of its FAR.

    Kept are the last point of each of ``points`` equal parts of the logarithm of the FAR, and the
    points with FAR 0 and 1.

    Args:
        curve: ROC curve (P,).
        points: Largest number of points, about.
    """
    seen = curve.far[curve.far > 0]
    if len(curve.far) <= points or not len(seen):
        return curve
    lowest = seen[0].log()
    part = ((curve.far.log() - lowest) / lowest.clamp(max=-1e-9).abs() * points).floor()
    last = torch.ones_like(part, dtype=torch.bool)
    last[:-1] = part[1:] != part[:-1]
    last[0] = True
    return RocCurve(*(values[last] for values in curve))


def false_acceptances(far: float, negatives: int) -> int:
    """Return how many of a number of pairs of two classes a rate accepts at most."""
    # a rate such as 1/6 times 6 is a little below 1
    return int(far * negatives + 1e-9)


def checked_rates(far: float | Sequence[float]) -> list[float]:
    """Return rates as a list, each in [0, 1]."""
    rates = [float(rate) for rate in (far if isinstance(far, Sequence) else [far])]
    for rate in rates:
        check_interval("[0, 1]", far=rate)
    return rates


def unmeasurable(rates: Sequence[float], negatives: int, positives: int) -> list[float]:
    """Return the rates that cannot be measured with as many pairs."""
    if not positives or not negatives:
        return list(rates)
    return [rate for rate in rates if rate > 0 and false_acceptances(rate, negatives) == 0]


def warn_of(unknown: Sequence[float], negatives: int, positives: int) -> None:
    """Say once which rates are not measured, and why."""
    if not unknown:
        return
    listed = ", ".join(f"{rate:g}" for rate in unknown)
    why = (
        f"takes at least {round(1 / min(unknown)):,} of two classes"
        if positives and negatives and min(unknown) > 0
        else "takes pairs of one class and of two"
    )
    warnings.warn(
        f"TAR@FAR of {listed} is NaN: it {why}, and there are {positives:,} pairs of one class and "
        f"{negatives:,} of two.",
        stacklevel=3,
    )


def far_name(far: float) -> str:
    """Return a rate as it stands in the names of values.

    Example:
        >>> far_name(0.001), far_name(0.05), far_name(0)
        ('1e-3', '5e-2', '0')
    """
    if far == 0:
        return "0"
    mantissa, exponent = f"{far:.5e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def _ranked(scores: Tensor) -> Tensor:
    """Return scores with NaN, which sorting takes for the highest, as the lowest."""
    return scores.masked_fill(scores.isnan(), -torch.inf)


def _exact(
    positive: Tensor, negative: Tensor, rates: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rate, threshold and realized rate of scores in ascending order."""
    number = len(negative)
    place = [number - 1 - false_acceptances(rate, number) for rate in rates]
    # with a threshold below all scores everything is accepted
    bounded = torch.cat([negative, negative.new_full((1,), -torch.inf)])
    threshold = bounded[torch.tensor(place, device=negative.device)]
    accepted, false = (
        len(scores) - torch.searchsorted(scores, threshold, right=True)
        for scores in (positive, negative)
    )
    return accepted.double() / len(positive), threshold, false.double() / number


def _nearest(scores: Tensor, same: Tensor, rates: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the point of the curve that is nearest to each rate, of those on no straight line."""
    counts = _accepted(scores, same)
    if len(scores) > 2:
        # scikit-learn's curve, which others read, has none of the points between two on a line
        corner = torch.ones_like(counts[0], dtype=torch.bool)
        corner[1:-1] = (counts[0].diff().diff() != 0) | (counts[1].diff().diff() != 0)
        counts = counts[0][corner], counts[1][corner], counts[2][corner]
    curve = _curve(*counts)
    wanted = torch.tensor(rates, dtype=torch.float64, device=scores.device)
    gap = (curve.far[None] - wanted[:, None]).abs()
    # the last of several as near
    place = len(curve.far) - 1 - gap.flip(1).argmin(1)
    return curve.tar[place], curve.threshold[place], curve.far[place]


def _accepted(scores: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return accepted pairs of two classes and of one from each distinct score on, descending."""
    scores, order = _ranked(scores).sort(descending=True)
    true = same[order].cumsum(0)
    # of equal scores the last one counts them all
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    true = true[last]
    return last.nonzero()[:, 0] + 1 - true, true, scores[last]


def _curve(false: Tensor, true: Tensor, threshold: Tensor) -> RocCurve:
    """Return the curve of accepted pairs, of which the last ones are all."""
    start = threshold.new_zeros(1, dtype=torch.float64)
    return RocCurve(
        far=torch.cat([start, false.double() / false[-1:]]),
        tar=torch.cat([start, true.double() / true[-1:]]),
        threshold=torch.cat([threshold.new_full((1,), torch.inf), threshold]),
    )
