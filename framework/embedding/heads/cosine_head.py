"""The base of heads whose logits are scaled cosines."""

from __future__ import annotations

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from framework.embedding.cosine_products import cosine_products
from framework.embedding.heads.head import ClassificationHead, FilterOptions
from framework.utilities.checks import check_positive


class ScaleOptions(FilterOptions, total=False):
    """Arguments of ``CosineHead``, for heads that keep its scale."""

    scale: float


class CosineHead(ClassificationHead):
    """Base of heads whose logits are cosines of embeddings and class vectors times a scale.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        scale: Number that multiplies the cosines.
        **options: Arguments of ``ClassificationHead``.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float = 64.0,
        **options: Unpack[FilterOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_positive(scale=scale)
        self.scale = scale

    def lengths(self, norms: Tensor) -> Tensor | float:
        """Return the scale."""
        return self.scale

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the scaled cosines, (B, C_r)."""
        # a scale of few rows, and not of a number for each pair
        return cosine_products(self.lengths(x) * F.normalize(x), weight)
