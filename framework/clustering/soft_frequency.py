"""How much of the data soft assignments give to the smallest cluster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class SmallestSoftFrequency(Metric):
    r"""Returns :math:`\min_k f_k`, where :math:`f_k` is the mean probability of cluster k.

    It is 1/K if the assignments are balanced. These frequencies are what the targets of deep
    clustering balance, see ``dec_target_distribution``; where
    assignments are unsure, the number of samples whose likeliest cluster is k can be far smaller.
    It needs no labels; sums are added up over ranks, which may have no rows.

    ``compute`` returns a float32 scalar, NaN without any sample.

    Args:
        num_clusters: Number of clusters K.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: K below 1, or, at an update, assignments of another shape.

    Example:
        >>> import torch
        >>> from framework.clustering.soft_frequency import SmallestSoftFrequency
        >>> metric = SmallestSoftFrequency(num_clusters=2)
        >>> metric.update(torch.tensor([[0.6, 0.4], [0.8, 0.2]]))
        >>> metric.compute()
        tensor(0.3000)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    total: Tensor
    rows: Tensor

    def __init__(self, num_clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_clusters=num_clusters)
        zeros = torch.zeros(num_clusters, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, assignment: Tensor) -> None:
        """Add a batch of soft assignments, (B, K)."""
        if assignment.ndim != 2 or assignment.shape[1] != len(self.total):
            raise ValueError(
                f"SmallestSoftFrequency takes assignments (B, {len(self.total)}), got "
                f"{tuple(assignment.shape)}."
            )
        self.total += assignment.sum(0, dtype=torch.float64)
        self.rows += len(assignment)

    def compute(self) -> Tensor:
        """Return the share of the smallest cluster."""
        return (self.total.min() / self.rows).float()
