"""Base of accuracies of a rule that was learned from features of other rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class BankAccuracy(Metric):
    """Share of samples that a rule classifies rightly, which a bank of labeled features gave.

    The bank, as a rule the features of the training set, is no state of the metric: the rule stays
    until another bank is given. Samples are counted, so that batches and ranks do not matter.

    Args:
        num_classes: Number K of classes.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_classes`` below 1.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    has_bank = False
    counts: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_classes=num_classes)
        self.num_classes = num_classes
        # right and all
        self.add_state("counts", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def learn(self, feature: Tensor, label: Tensor) -> None:
        """Take the rule from features (N, D) with labels (N,), all of them known."""
        raise NotImplementedError(f"{type(self).__name__} defines no rule.")

    def scores(self, feature: Tensor) -> Tensor:
        """Return the scores (B, K) of the classes of features (B, D)."""
        raise NotImplementedError(f"{type(self).__name__} defines no scores.")

    def use_bank(self, feature: Tensor, label: Tensor) -> None:
        """Take the rule from these rows from now on; those without a label, -1, are left out.

        Collective: every rank calls it.

        Args:
            feature: (N, D), the same on every rank.
            label: (N,) int64, the same on every rank.

        Raises:
            ValueError: Other shapes, a label of K or more, or no row with a label.
        """
        known = label >= 0
        self.learn(feature[known], label[known])
        self.has_bank = True

    def update(self, feature: Tensor, label: Tensor) -> None:
        """Add a batch; rows without a label, -1, do not count.

        Args:
            feature: (B, D).
            label: (B,) int64.

        Raises:
            RuntimeError: There is no bank yet.
        """
        if not self.has_bank:
            raise RuntimeError(f"{type(self).__name__} has learned no rule: call use_bank() first.")
        known = label >= 0
        right = (self.scores(feature).argmax(1) == label) & known
        self.counts += torch.stack([right.sum(), known.sum()])

    def compute(self) -> Tensor:
        """Return the accuracy; NaN where nothing has been counted."""
        right, number = self.counts.unbind()
        return right / number
