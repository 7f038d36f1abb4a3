"""How certain and how varied predictions are over a whole data set, without labels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class MimickingLoss(Metric):
    r"""The shifted ``TargetClassificationMimicking`` of all rows at once.

    .. math:: \log K + \sum_k \bar\rho_k \log \bar\rho_k
        - \frac1N \sum_{ik} \rho_{ik} \log \rho_{ik}

    with the mean :math:`\bar\rho` over all N rows of an evaluation. It selects models where there
    are no labels. The mean of the batches' losses would not be the loss: it depends on their size.
    Sums are exact over batches and are added up over ranks, which may have no rows.

    ``compute`` returns a float64 scalar in [0, log K], NaN without any row.

    Args:
        num_classes: Number of classes K.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: K below 2, or, at an update, predictions of another shape.

    Example:
        >>> import torch
        >>> from framework.adaptation.mimicking_loss import MimickingLoss
        >>> metric = MimickingLoss(num_classes=2)
        >>> metric.update(torch.tensor([[4.0, 0.0]]))
        >>> metric.update(torch.tensor([[0.0, 3.0]]))
        >>> metric.compute().float()
        tensor(0.1409)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False
    total: Tensor
    negative_entropy: Tensor
    rows: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(2, num_classes=num_classes)
        zeros = torch.zeros(num_classes, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("negative_entropy", zeros[0].clone(), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor) -> None:
        """Add a batch of logits or log-probabilities, (B, K)."""
        if predictions.ndim != 2 or predictions.shape[1] != len(self.total):
            raise ValueError(
                f"MimickingLoss takes logits (B, {len(self.total)}), got "
                f"{tuple(predictions.shape)}."
            )
        log_p = F.log_softmax(predictions.double(), dim=1)
        p = log_p.exp()
        self.total += p.sum(0)
        # a class that is ruled out, at minus infinity, adds nothing
        self.negative_entropy += torch.where(p > 0, p * log_p, 0.0).sum()
        self.rows += len(predictions)

    def compute(self) -> Tensor:
        """Return the loss of all rows."""
        mean = self.total / self.rows
        value = torch.xlogy(mean, mean).sum() - self.negative_entropy / self.rows
        return value + math.log(len(self.total))
