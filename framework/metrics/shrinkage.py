"""Whether a reconstruction points the right way, and whether it is too short."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.metrics.fvu import pair_of_rows


class _MeanOverTokens(Metric):
    """Mean over tokens of one number each, from sums in float64 over all batches and ranks."""

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target)
        self.total += self.per_token(reconstruction, target).sum()
        self.rows += len(target)

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def compute(self) -> Tensor:
        """Return the mean, NaN without any row."""
        return (self.total / self.rows).float()


class ReconstructionCosine(_MeanOverTokens):
    """Mean over tokens of the cosine between activation and reconstruction, called ``cos``.

    A reconstruction of zeros counts 0.

    Args:
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.metrics.shrinkage import ReconstructionCosine
        >>> metric = ReconstructionCosine()
        >>> found, x = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3, 0]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Return the cosine of every row, (B,)."""
        return torch.nn.functional.cosine_similarity(reconstruction, target, dim=1)


class L2Ratio(_MeanOverTokens):
    """Mean over tokens of the reconstruction's length over the activation's, called ``l2_ratio``.

    Args:
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.metrics.shrinkage import L2Ratio
        >>> metric = L2Ratio()
        >>> found, x = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [2, 0]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(1.2500)
    """

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Return the ratio of every row, (B,)."""
        return reconstruction.norm(dim=1) / target.norm(dim=1)


class RelativeReconstructionBias(Metric):
    """``sum |r|^2 / sum r.x``, called ``rel_rec_bias``: below 1 reconstructions are too short.

    It is the factor by which reconstructions are longer than those of the same directions that
    would fit best (arXiv:2404.16014). From sums in float64 over all batches and ranks.

    Args:
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.metrics.shrinkage import RelativeReconstructionBias
        >>> metric = RelativeReconstructionBias()
        >>> found, x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 3.0], [5, 2]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.5000)
    """

    full_state_update = False
    square: Tensor
    product: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("square", zero, dist_reduce_fx="sum")
        self.add_state("product", zero.clone(), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target)
        self.square += reconstruction.square().sum()
        self.product += (reconstruction * target).sum()

    def compute(self) -> Tensor:
        """Return the ratio, NaN without any row."""
        return (self.square / self.product).float()
