"""Share of the variance that a reconstruction misses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class FractionVarianceUnexplained(Metric):
    """Squared error over the variance around the mean of the whole evaluation set, ``fvu``.

    ``sum |x - r|^2 / sum |x - mean(x)|^2``: 0 is perfect, 1 is what the mean would reach. From sums
    in float64 over all batches and ranks, which may have no rows; means of the ratios of batches,
    which some libraries report, differ from it.

    Args:
        size: Width d of a row.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.fvu import FractionVarianceUnexplained
        >>> fvu = FractionVarianceUnexplained(size=2)
        >>> fvu.update(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 1.0], [3.0, 1]]))
        >>> fvu.compute()
        tensor(1.5000)
    """

    full_state_update = False
    higher_is_better = False
    error: Tensor
    total: Tensor
    square: Tensor
    rows: Tensor

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("error", zero, dist_reduce_fx="sum")
        self.add_state("square", zero.clone(), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target, len(self.total))
        self.error += (target - reconstruction).square().sum()
        self.square += target.square().sum()
        self.total += target.sum(0)
        self.rows += len(target)

    def compute(self) -> Tensor:
        """Return the share, NaN without any row."""
        variance = self.square - self.total.square().sum() / self.rows
        return (self.error / variance).float()


def pair_of_rows(
    metric: Metric, reconstruction: Tensor, target: Tensor, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return reconstruction and target in float64 after a check of their shapes.

    Args:
        metric: Metric that the message names.
        reconstruction: (B, d).
        target: (B, d).
        size: Width d of a row, if it is fixed.

    Raises:
        ValueError: they are not of one shape (B, d).
    """
    expected = target.ndim == 2 and size in (None, target.shape[-1])
    if reconstruction.shape != target.shape or not expected:
        raise ValueError(
            f"{type(metric).__name__} takes two tensors (B, {size or 'd'}), got "
            f"{tuple(reconstruction.shape)} and {tuple(target.shape)}."
        )
    return reconstruction.double(), target.double()
