"""The coefficient of determination of targets in any unit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class R2Score(Metric):
    r"""Share of the targets' variance that the predictions explain, the mean over the targets.

    :math:`1 - \sum_i (y_i - f_i)^2 / \sum_i (y_i - \bar y)^2` over all batches and ranks, which may
    have no rows: 1 is perfect, 0 is what the mean of the targets would reach. A target that is the
    same in all rows has no R2 and is left out of the mean; NaN where no other is left.

    It is the same in any unit and around any mean. ``torchmetrics.regression.R2Score`` takes sums
    of squares below 1e-4 for 0, and so calls every prediction of small targets perfect.

    Shapes: predictions and targets (B,) or (B, T).

    Args:
        num_outputs: Number of targets T.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_outputs`` below 1, or predictions and targets of other shapes.

    Example:
        >>> import torch
        >>> from framework.metrics.r2_score import R2Score
        >>> r2 = R2Score()
        >>> r2.update(torch.tensor([2e-9, 1e-9, 5e-9]), torch.tensor([1e-9, 2e-9, 6e-9]))
        >>> r2.compute()
        tensor(0.7857)
    """

    full_state_update = False
    higher_is_better = True
    moments: Tensor

    def __init__(self, num_outputs: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_outputs=num_outputs)
        # rows, mean, squares around it, and squared errors; float64 holds the squares of float32
        zeros = torch.zeros(4, num_outputs, dtype=torch.float64)
        self.add_state("moments", zeros, dist_reduce_fx=merged)

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        outputs = self.moments.shape[1]
        one = outputs == 1 and targets.ndim == 1
        if predictions.shape != targets.shape or not (one or targets.shape[1:] == (outputs,)):
            raise ValueError(
                f"R2Score takes predictions and targets (B,) or (B, T) with T = {outputs}, got "
                f"{tuple(predictions.shape)} and {tuple(targets.shape)}."
            )
        if not len(targets):
            return
        targets = targets.double().reshape(-1, outputs)
        error = (targets - predictions.double().reshape(-1, outputs)).square().sum(0)
        # from the first row on, so that equal targets have exactly no variance
        shifted = targets - targets[0]
        mean = shifted.mean(0)
        rows = torch.full_like(mean, len(targets))
        batch = [rows, targets[0] + mean, (shifted - mean).square().sum(0), error]
        self.moments = merged(torch.stack([self.moments, torch.stack(batch)]))

    def compute(self) -> Tensor:
        """Return R2, NaN where no target varies."""
        _, _, variation, error = self.moments
        return (1 - error / variation).where(variation > 0, torch.nan).nanmean().float()


def merged(parts: Tensor) -> Tensor:
    """Return the moments of all rows from those of disjoint parts.

    Args:
        parts: (P, 4, T) float64: rows, mean, squares around the mean, and squared errors.
    """
    rows, mean, variation, error = parts.unbind(1)
    share = rows / rows.sum(0).clamp(min=1)
    # sums of squares around 0 would lose the digits of targets far from it
    origin = mean[rows[:, 0].argmax()]
    shifted = mean - origin
    center = (share * shifted).sum(0)
    between = (rows * (shifted - center).square()).sum(0)
    total = [rows.sum(0), origin + center, variation.sum(0) + between, error.sum(0)]
    return torch.stack(total)
