"""Two squared errors without a mean taken off, which peers both call normalised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.metrics.fvu import pair_of_rows


class NMSERatio(Metric):
    """Squared error over squared size, ``sum |x - r|^2 / sum |x|^2``, called ``nmse_ratio``.

    1 is what nothing but zeros would reach. From sums in float64 over all batches and ranks, which
    may have no rows.

    Args:
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.metrics.nmse import NMSERatio
        >>> metric = NMSERatio()
        >>> found, x = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 1.0], [3, 1]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.1667)
    """

    full_state_update = False
    higher_is_better = False
    error: Tensor
    square: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("error", zero, dist_reduce_fx="sum")
        self.add_state("square", zero.clone(), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target)
        self.error += (target - reconstruction).square().sum()
        self.square += target.square().sum()

    def compute(self) -> Tensor:
        """Return the ratio, NaN without any row."""
        return (self.error / self.square).float()


class NMSEOpenAI(Metric):
    """Mean over tokens of each token's own ``|x - r|^2 / |x|^2``, called ``nmse_openai``.

    As in the code of arXiv:2406.04093. Small tokens count as much as large ones, which is what
    differs from :class:`NMSERatio`.

    Args:
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.metrics.nmse import NMSEOpenAI
        >>> metric = NMSEOpenAI()
        >>> found, x = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 1.0], [3, 1]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.3000)
    """

    full_state_update = False
    higher_is_better = False
    ratio: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("ratio", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target)
        error = (target - reconstruction).square().sum(1)
        self.ratio += (error / target.square().sum(1)).sum()
        self.rows += len(target)

    def compute(self) -> Tensor:
        """Return the mean, NaN without any row."""
        return (self.ratio / self.rows).float()
