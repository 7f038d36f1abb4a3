"""Everything that is said of a list of scored pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from framework.embedding.metrics.roc import RocCurve, far_name, roc_curve, tar_at_far, thinned
from framework.embedding.metrics.roc import unmeasurable as unmeasurable_rates
from framework.embedding.metrics.score_blocks import ScoreSummary, histogram_of
from framework.embedding.metrics.verification import best_threshold_accuracy, fold_accuracy


class ScoreCurves(NamedTuple):
    """What figures show of the similarities of pairs.

    Args:
        roc: Some hundred points of the ROC curve.
        histogram: Number of pairs of two classes and of one, (2, 128), in equal parts of [-1, 1].
    """

    roc: RocCurve
    histogram: Tensor


def pair_values(
    distances: Tensor,
    same: Tensor,
    num_folds: int,
    far: Sequence[float],
    similarity: Tensor | None = None,
) -> dict[str, Any]:
    """Return the values of a list of pairs by name; without pairs none.

    ``acc``, ``acc_std`` and ``threshold`` are those of ``fold_accuracy`` (with 2 folds at least and
    as many pairs), ``best_threshold_acc`` that on these very pairs, ``tar@far=1e-3`` the exact TAR
    of cosines at each rate that can be measured, and ``curves`` what figures show.

    Args:
        distances: Squared distances of vectors of norm 1, (M,), in the order of the folds.
        same: Whether each pair is of one class, (M,) bool.
        num_folds: Number of folds.
        far: False acceptance rates.
        similarity: Cosines (M,), where they are known better than from the distances.
    """
    values: dict[str, Any] = {}
    if not len(distances):
        return values
    if 2 <= num_folds <= len(distances):
        folds = fold_accuracy(distances, same, num_folds)
        values |= {"acc": folds.mean, "acc_std": folds.std, "threshold": folds.threshold}
    values["best_threshold_acc"] = best_threshold_accuracy(distances, same)[0]
    similarity = 1 - distances / 2 if similarity is None else similarity
    return values | score_values(similarity, same, far)


def score_values(similarity: Tensor, same: Tensor, far: Sequence[float]) -> dict[str, Any]:
    """Return ``tar@far=1e-3`` at each rate that can be measured, and ``curves``; else nothing.

    Args:
        similarity: Cosines of pairs, (M,).
        same: Whether each pair is of one class, (M,) bool.
        far: False acceptance rates.
    """
    positives = int(same.sum())
    negatives = len(same) - positives
    if not positives or not negatives:
        return {}
    rates = measurable(far, negatives, positives)
    found = tar_at_far(similarity, same, rates).tar if rates else ()
    curves = ScoreCurves(thinned(roc_curve(similarity, same)), histogram_of(similarity, same))
    return {**tar_values(rates, found), "curves": curves}


def summary_values(summary: ScoreSummary, far: Sequence[float]) -> dict[str, Any]:
    """Return the values of scores that are not kept by name, as ``pair_values`` calls them.

    Args:
        summary: Summary of the scores.
        far: False acceptance rates of the summary.
    """
    negatives, positives = summary.histogram.sum(1).tolist()
    if not positives or not negatives:
        return {}
    rates = measurable(far, negatives, positives)
    found = [summary.at_far.tar[list(far).index(rate)] for rate in rates]
    return {**tar_values(rates, found), "curves": ScoreCurves(summary.roc, summary.histogram)}


def measurable(far: Sequence[float], negatives: int, positives: int) -> list[float]:
    """Return the rates that can be measured with as many pairs."""
    unknown = unmeasurable_rates(far, negatives, positives)
    return [rate for rate in far if rate not in unknown]


def tar_values(far: Sequence[float], tar: Sequence[Tensor] | Tensor) -> dict[str, Tensor]:
    """Return TAR at each FAR by its name in a log."""
    return {f"tar@far={far_name(rate)}": value for rate, value in zip(far, tar, strict=True)}
