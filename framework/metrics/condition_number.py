"""How ill-conditioned least squares on some features is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least


class ConditionNumber(RowMetric):
    """Largest singular value of a matrix of features over the min(N, P)-th.

    Gradient descent on a linear head takes about its square of steps to fit the last direction. All
    N rows are kept until ``compute``, which is in float64: beyond 1e3 float32 cannot tell.

    Shapes: features (B, P); ``compute`` returns a scalar: where the rank is below min(N, P), 1e15
    and more by rounding, or infinite; NaN without a row.

    Args:
        num_features: Number P of features.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_features`` below 1, or features of another shape.

    Example:
        >>> metric = ConditionNumber(num_features=3)
        >>> metric.update(torch.diag(torch.tensor([4.0, 2.0, 1.0])))
        >>> metric.compute()
        tensor(4.)
    """

    higher_is_better = False
    features: list[Tensor]

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        check_at_least(1, num_features=num_features)
        super().__init__({"features": torch.zeros(0, num_features, dtype=torch.float64)}, **kwargs)
        self.num_features = num_features

    def update(self, features: Tensor) -> None:
        """Add the rows of a batch, (B, P)."""
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise ValueError(
                f"ConditionNumber takes features of shape (B, {self.num_features}), got "
                f"{tuple(features.shape)}."
            )
        self.features.append(features.detach().double())

    def compute(self) -> Tensor:
        """Return the condition number."""
        features = self.joined("features", self.device)
        if not len(features):
            return torch.tensor(torch.nan, device=features.device)
        values = torch.linalg.svdvals(features)
        return (values[0] / values[-1]).float()
