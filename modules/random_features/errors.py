"""Test errors of many networks at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class HeadErrors(Metric):
    """Squared error and share of wrong classes of H heads on the same rows.

    ``compute`` returns (2, H) float64: the mean over rows of the squared error, summed over the
    classes, and the share of rows whose largest output is another class. Sums are added up over
    ranks, which may have no rows.

    Args:
        num_heads: Number of heads H.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_heads`` below 1.

    Example:
        >>> metric = HeadErrors(num_heads=2)
        >>> outputs = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> metric.update(outputs, torch.tensor([[1.0, 0.0]]))
        >>> metric.compute()
        tensor([[0., 5.],
                [0., 1.]], dtype=torch.float64)
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    sums: Tensor
    rows: Tensor

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_heads=num_heads)
        zeros = torch.zeros(2, num_heads, dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: (H, B, K).
            targets: (B, K), one-hot.
        """
        squares = (outputs - targets).square().sum(-1)
        wrong = outputs.argmax(-1) != targets.argmax(-1)
        self.sums += torch.stack([squares.double().sum(1), wrong.double().sum(1)])
        self.rows += len(targets)

    def compute(self) -> Tensor:
        """Return the errors of every head, (2, H)."""
        return self.sums / self.rows
