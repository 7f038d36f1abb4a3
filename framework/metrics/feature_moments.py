"""Base of metrics of the singular values of features, from sums that ranks can add."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class FeatureMoments(Metric):
    """Sums of features and of their outer products, of which the singular values are a function.

    The sums are float64, K x K instead of rows x K, and exact over batches and ranks.

    Args:
        num_features: Number K of features of a row.
        **kwargs: Arguments of ``torchmetrics.Metric``.
    """

    full_state_update = False
    total: Tensor
    outer: Tensor
    rows: Tensor

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_features=num_features)
        size = num_features
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add the features (B, K) of a batch, which may be empty."""
        if features.ndim != 2 or features.shape[1] != len(self.total):
            raise ValueError(
                f"{type(self).__name__} takes features (B, {len(self.total)}), got "
                f"{tuple(features.shape)}."
            )
        values = features.detach().double()
        self.total += values.sum(0)
        self.outer += values.mT @ values
        self.rows += len(values)

    def singular_values(self) -> Tensor:
        """Return the singular values (K,) of the centered features of all rows, largest first."""
        return centered_singular_values(self.total, self.outer, self.rows)


def centered_singular_values(total: Tensor, outer: Tensor, rows: Tensor) -> Tensor:
    """Return the singular values (K,) of centered features from their sums, largest first.

    Values that rounding alone may have made are 0.

    Args:
        total: Sum of the features, (K,) float64.
        outer: Sum of their outer products, (K, K) float64.
        rows: Number of rows, a scalar.

    Example:
        >>> z = torch.tensor([[3.0], [-3.0]], dtype=torch.float64)
        >>> centered_singular_values(z.sum(0), z.mT @ z, torch.tensor(2))
        tensor([4.2426], dtype=torch.float64)
    """
    scatter = outer - torch.outer(total, total) / rows.clamp(min=1)
    squares = torch.linalg.eigvalsh(scatter).flip(0)
    # what is left of the mean cancels to this at best, after as many sums
    floor = rows.clamp(min=len(outer)) * torch.finfo(outer.dtype).eps * outer.trace()
    return squares.where(squares > floor, 0).sqrt()
