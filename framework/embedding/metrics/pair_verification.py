"""Verification of pairs that are scored a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from framework.embedding.metrics.pair_scores import pair_values
from framework.embedding.metrics.roc import checked_rates
from framework.embedding.metrics.row_order import first_of_each
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least, check_one_of


class PairVerification(RowMetric):
    """Accuracy over folds and TAR@FAR of pairs, of which each is of one class or of two.

    Pairs are ordered by their number, which the folds follow, and one that comes twice counts once,
    so that batches and ranks do not matter. ``compute`` returns what ``pair_values`` does; a FAR
    that these pairs are too few to measure has no value.

    Args:
        score: Whether pairs are given cosines or squared distances of vectors of norm 1.
        num_folds: Number of contiguous folds.
        far: False acceptance rates at which the true one is told.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``score`` is neither, fewer than 2 folds, or a rate outside of [0, 1].

    Example:
        >>> metric = PairVerification(num_folds=2, far=(0.5,))
        >>> metric.update(
        ...     torch.tensor([0.9, 0.1, 0.9, 0.2]),
        ...     torch.tensor([True, False, True, False]),
        ...     index=torch.arange(4),
        ... )
        >>> {name: round(float(metric.compute()[name]), 3) for name in ("acc", "tar@far=5e-1")}
        {'acc': 1.0, 'tar@far=5e-1': 1.0}
    """

    def __init__(
        self,
        score: Literal["similarity", "distance"] = "similarity",
        num_folds: int = 10,
        far: Sequence[float] = (1e-2, 1e-3),
        **kwargs: Any,
    ) -> None:
        empty = {
            "value": torch.zeros(0),
            "same": torch.zeros(0, dtype=torch.bool),
            "index": torch.zeros(0, dtype=torch.int64),
        }
        super().__init__(empty, **kwargs)
        check_one_of(("similarity", "distance"), score=score)
        check_at_least(2, num_folds=num_folds)
        self.score = score
        self.num_folds = num_folds
        self.far = checked_rates(far)

    def update(self, scores: Tensor, same: Tensor, index: Tensor) -> None:
        """Add a batch of B pairs.

        Args:
            scores: Cosines or squared distances (B,).
            same: Whether each pair is of one class, (B,) bool.
            index: Number of each pair in their list, (B,) int64.
        """
        rows = {"value": scores.detach().float(), "same": same.bool(), "index": index}
        for name, value in rows.items():
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Any]:
        """Return the values by name."""
        value, same, index = (self.joined(name, self.device) for name in self._empty)
        rows = first_of_each(index)
        value, same = value[rows], same[rows]
        if self.score == "distance":
            return pair_values(value, same, self.num_folds, self.far)
        return pair_values(2 - 2 * value, same, self.num_folds, self.far, similarity=value)
