"""Accuracy of every prefix of the features, and the prefix to choose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.objectives.labels import IGNORE_INDEX
from framework.utilities.checks import check_at_least


class PrefixAccuracy(Metric):
    """Share of rows that are classified correctly from the first 1, 2, ..., H channels.

    ``compute`` returns (H,) float32, entry k-1 for the first k channels; counts are exact and are
    added up over ranks, which may have no rows.

    Args:
        num_prefixes: Number of prefixes H.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_prefixes`` below 1, or predictions of another shape.

    Example:
        >>> import torch
        >>> from framework.metrics.prefix_accuracy import PrefixAccuracy
        >>> metric = PrefixAccuracy(num_prefixes=2)
        >>> metric.update(torch.tensor([[0, 1, 1], [0, 2, 1]]), torch.tensor([0, 2, 1]))
        >>> metric.compute()
        tensor([0.6667, 1.0000])
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    correct: Tensor
    total: Tensor

    def __init__(self, num_prefixes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_prefixes=num_prefixes)
        counts = torch.zeros(num_prefixes, dtype=torch.int64)
        self.add_state("correct", counts, dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            predictions: (H, B) int64, see ``prefix_predictions``.
            target: (B,) int64; rows of -100 do not count.
        """
        expected = (len(self.correct), len(target))
        if predictions.shape != expected:
            raise ValueError(
                f"PrefixAccuracy takes predictions of shape (H, B) = {expected}, got "
                f"{tuple(predictions.shape)}."
            )
        self.correct += (predictions == target).sum(1)  # no prediction is -100
        self.total += (target != IGNORE_INDEX).sum()

    def compute(self) -> Tensor:
        """Return the accuracy of every prefix, (H,)."""
        return self.correct.float() / self.total


def best_prefix(accuracy: Tensor, penalty: float = 1e-5) -> int:
    """Return the k in 1..H with the largest ``accuracy[k - 1] - penalty * (k - 1)``.

    Of equal values the smallest k counts. As in arXiv:2206.13140's code, the penalty prefers the
    shorter of two prefixes that are as good but for rounding.

    Args:
        accuracy: (H,) accuracy of the first 1, ..., H channels.
        penalty: Penalty per channel.

    Example:
        >>> import torch
        >>> from framework.metrics.prefix_accuracy import best_prefix
        >>> best_prefix(torch.tensor([0.5, 0.9, 0.9]))
        2
    """
    channels = torch.arange(len(accuracy), device=accuracy.device)
    return 1 + int((accuracy - penalty * channels).argmax())
