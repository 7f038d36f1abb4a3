"""How well neighborhoods say their classes, over many episodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.embedding.icnn import icnn_score
from framework.utilities.checks import check_at_least


class ICNNScore(Metric):
    """Mean ICNN score of sets of points, in (0, 1]: higher where classes lie apart.

    Args:
        k: Number of neighbors.
        neighborhood: Number of nearest points among which the nearest one of another class is
            sought; default k + 1.
        use_variance: Whether the variance of the distances counts as a third part.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: An argument out of its range, or fewer than three points.

    Example:
        >>> metric = ICNNScore(k=2, neighborhood=3)
        >>> points = torch.tensor([[0.0, 0], [0, 1], [1, 0], [4, 4], [4, 5], [5, 4]])
        >>> metric.update(points, torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> metric.compute()
        tensor(0.9464)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(
        self,
        k: int = 4,
        neighborhood: int | None = None,
        use_variance: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, k=k, neighborhood=neighborhood)
        self.k = k
        self.neighborhood = neighborhood
        self.use_variance = use_variance
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, embedding: Tensor, label: Tensor, neighborhood: int | None = None) -> None:
        """Add sets of points.

        Args:
            embedding: Points of one set (n, d) or of several (..., n, d).
            label: Their classes (n,) or (..., n) int64.
            neighborhood: Neighborhood where the constructor has none.
        """
        if self.neighborhood is not None:
            neighborhood = self.neighborhood
        with torch.no_grad():
            score = icnn_score(
                embedding,
                label,
                k=self.k,
                neighborhood=neighborhood,
                use_variance=self.use_variance,
            ).score
        self.total += score.double().sum()
        self.count += score.numel()

    def compute(self) -> Tensor:
        """Return the mean over all sets."""
        return (self.total / self.count).float()
