"""Direction and length of reconstructions against those of the activations."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.sparse_coding.per_token import MeanOverTokens, RatioOfSums


class ReconstructionCosine(MeanOverTokens):
    """Mean over tokens of the cosine between activation and reconstruction, called ``cos``.

    A reconstruction of zeros counts 0.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.shrinkage import ReconstructionCosine
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


class L2Ratio(MeanOverTokens):
    """Mean over tokens of the reconstruction's length over the activation's, called ``l2_ratio``.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.shrinkage import L2Ratio
        >>> metric = L2Ratio()
        >>> found, x = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [2, 0]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(1.2500)
    """

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Return the ratio of every row, (B,)."""
        return reconstruction.norm(dim=1) / target.norm(dim=1)


class RelativeReconstructionBias(RatioOfSums):
    """``sum |r|^2 / sum r.x``, called ``rel_rec_bias``: below 1 reconstructions are too short.

    It is the factor by which reconstructions are longer than those of the same directions that
    would fit best (arXiv:2404.16014). From sums in float64 over all batches and ranks.

    Args:
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: tensors that are not (B, d).

    Example:
        >>> import torch
        >>> from framework.sparse_coding.shrinkage import RelativeReconstructionBias
        >>> metric = RelativeReconstructionBias()
        >>> found, x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 3.0], [5, 2]])
        >>> metric.update(found, x)
        >>> metric.compute()
        tensor(0.5000)
    """

    def parts(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared length and the product with the activation."""
        return reconstruction.square(), reconstruction * target
