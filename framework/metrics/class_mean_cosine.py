"""How much the mean features of classes point in the same direction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


def pair_cosines(sums: Tensor) -> Tensor:
    """Return the cosines (C, C) between class means, NaN where a class has no direction.

    Args:
        sums: Sums or means (C, K) of the features of each class; both point the same way.
    """
    length = sums.norm(dim=1, keepdim=True)
    unit = (sums / length).where(length > 0, torch.nan)
    return (unit @ unit.mT).float()


def mean_pair_cosine(sums: Tensor) -> Tensor:
    """Return the mean cosine of two different classes, NaN where fewer than two have a direction.

    Args:
        sums: Sums or means (C, K) of the features of each class.

    Example:
        >>> mean_pair_cosine(torch.tensor([[1.0, 0.0], [3.0, 3.0]]))
        tensor(0.7071)
    """
    cosines = pair_cosines(sums)
    first, second = torch.triu_indices(len(cosines), len(cosines), offset=1)
    return cosines[first, second].nanmean()


class ClassMeanCosine(Metric):
    """Mean cosine between the mean features of two classes, over all pairs of classes.

    Classes whose features point in the same direction interfere: a step for one moves the other
    (arXiv:2507.12224). 1 is one direction for all, 0 orthogonal ones. A class without rows, or
    whose mean is 0, has no direction and is left out; NaN where fewer than two are left.

    Shapes: features (B, K); label (B,) int64; rows with a negative label do not count.

    Args:
        num_classes: Number C of classes.
        num_features: Number K of features of a row.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: A number below 1, or features of another shape.

    Example:
        >>> cosine = ClassMeanCosine(num_classes=2, num_features=2)
        >>> cosine.update(torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([0, 1]))
        >>> cosine.compute()
        tensor(0.7071)
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, num_classes: int, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_classes=num_classes, num_features=num_features)
        zeros = torch.zeros(num_classes, num_features, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        rows = torch.zeros(num_classes, dtype=torch.int64)
        self.add_state("rows", rows, dist_reduce_fx="sum")

    def update(self, features: Tensor, label: Tensor) -> None:
        """Add a batch, which may be empty."""
        if features.ndim != 2 or features.shape != (len(label), self.total.shape[1]):
            raise ValueError(
                f"ClassMeanCosine takes features (B, {self.total.shape[1]}) and a label per row, "
                f"got {tuple(features.shape)} and {tuple(label.shape)}."
            )
        counted = label >= 0
        label = label[counted]
        self.total.index_add_(0, label, features.detach()[counted].double())
        self.rows += label.bincount(minlength=len(self.rows))

    def cosines(self) -> Tensor:
        """Return the cosines (C, C) between class means, NaN where a class has no direction."""
        return pair_cosines(self.total)

    def compute(self) -> Tensor:
        """Return the mean of the cosines of two different classes."""
        return mean_pair_cosine(self.total)
