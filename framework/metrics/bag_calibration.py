"""How far the mean predictions of bags are from their mean responses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class BagCalibrationError(Metric):
    r"""Mean over bags of \|mean prediction - mean response\|, each bag weighted by its rows.

    Needs no individual response, so that it can be measured where only the means of bags are known.
    It is exact however the rows of a bag fall on batches and ranks. Of several outputs or classes
    it is the mean; of a classifier give probabilities and proportions.

    Shapes: predictions and targets (B,) or (B, T), in one unit, which is that of the result; group
    (B,) int64, the bag of each row; a target is the row's own response or its bag's mean.

    Args:
        num_bags: Number of bags M; they are numbered 0..M-1, and one without rows does not count.
        num_outputs: Number of outputs T.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: an argument below 1, or predictions and targets of other shapes.

    Example:
        >>> import torch
        >>> from framework.metrics.bag_calibration import BagCalibrationError
        >>> error = BagCalibrationError(num_bags=2)
        >>> prediction, group = torch.tensor([1.0, 2.0, 4.0, 7.0]), torch.tensor([0, 0, 1, 1])
        >>> error.update(prediction, torch.tensor([2.0, 2.0, 4.0, 4.0]), group)
        >>> error.compute()
        tensor(1.)
    """

    full_state_update = False
    higher_is_better = False
    residual: Tensor
    rows: Tensor

    def __init__(self, num_bags: int, num_outputs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_bags=num_bags, num_outputs=num_outputs)
        # sums, so that a bag may be split; in float64, as they cancel
        zeros = torch.zeros(num_bags, num_outputs, dtype=torch.float64)
        self.add_state("residual", zeros, dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor, group: Tensor) -> None:
        """Add a batch."""
        if predictions.shape != targets.shape or len(group) != len(targets):
            raise ValueError(
                "BagCalibrationError takes predictions and targets of one shape and a group per "
                f"row, got {tuple(predictions.shape)}, {tuple(targets.shape)} and "
                f"{tuple(group.shape)}."
            )
        residual = predictions.double() - targets.double()
        self.residual.index_add_(0, group, residual.reshape(len(group), self.residual.shape[1]))
        self.rows += len(group)

    def compute(self) -> Tensor:
        """Return the error, NaN without any row."""
        # |a| / n of a bag cancels the 1 / |a| of its means
        return (self.residual.abs().sum(0).mean() / self.rows).float()
