"""Accuracy over episodes of few-shot learning, with the interval that it is known to."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.metrics.row_metric import RowMetric

NORMAL_QUANTILE = 1.96
"""Quantile of the normal distribution that leaves 2.5 % above."""


class FewShotScore(NamedTuple):
    """Mean accuracy of n episodes, and half the width of its 95 % interval.

    Args:
        accuracy: Mean over the episodes (), float64.
        ci95: 1.96 s / sqrt(n), s the standard deviation of the sample; NaN of one episode.
        ci95_t: The same with the quantile of Student's distribution, which holds for few episodes.
    """

    accuracy: Tensor
    ci95: Tensor
    ci95_t: Tensor


def few_shot_score(accuracy: Tensor) -> FewShotScore:
    """Return mean and interval of the accuracies of n episodes, (n,).

    Example:
        >>> score = few_shot_score(torch.tensor([0.5, 0.6, 0.55, 0.7, 0.65]))
        >>> [round(float(value), 4) for value in score]
        [0.6, 0.0693, 0.0982]
    """
    accuracy = accuracy.double()
    number = len(accuracy)
    if number < 2:
        nan = accuracy.new_full((), math.nan)
        return FewShotScore(accuracy.mean(), nan, nan)
    from scipy.stats import t

    error = accuracy.std() / math.sqrt(number)
    return FewShotScore(
        accuracy.mean(), NORMAL_QUANTILE * error, float(t.ppf(0.975, number - 1)) * error
    )


class FewShotAccuracy(RowMetric):
    """Mean accuracy over episodes with its 95 % interval, each episode counted once.

    Episodes are told by their number, so that the value depends neither on ranks nor on an episode
    that was seen twice. ``compute`` returns ``accuracy``, ``accuracy_ci95`` (1.96 s / sqrt(n)) and
    ``accuracy_ci95_t`` (by the quantile of Student's distribution), see ``few_shot_score``.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = FewShotAccuracy()
        >>> prediction = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]])
        >>> metric.update(prediction, torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]]), torch.arange(2))
        >>> metric.compute()["accuracy"]
        tensor(0.7500)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        empty = {
            "index": torch.empty(0, dtype=torch.int64),
            "correct": torch.empty(0, dtype=torch.float32),
        }
        super().__init__(empty, **kwargs)

    def update(self, prediction: Tensor, label: Tensor, index: Tensor) -> None:
        """Add episodes.

        Args:
            prediction: Predicted classes of the queries, (E, Q) int64.
            label: Their classes (E, Q) int64.
            index: Numbers of the episodes (E,) int64.
        """
        self.index.append(index.detach())  # type: ignore[operator, union-attr]
        self.correct.append(  # type: ignore[operator, union-attr]
            (prediction == label).float().mean(-1).detach()
        )

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracy and both intervals."""
        index, correct = self.joined("index"), self.joined("correct")
        order = index.argsort(stable=True)
        index, correct = index[order], correct[order]
        first = torch.ones(len(index), dtype=torch.bool)
        first[1:] = index[1:] != index[:-1]
        score = few_shot_score(correct[first])
        return {
            "accuracy": score.accuracy.float(),
            "accuracy_ci95": score.ci95.float(),
            "accuracy_ci95_t": score.ci95_t.float(),
        }
