"""Softmax of scaled cosines."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from framework.embedding.heads.cosine_head import CosineHead
from framework.embedding.heads.head import FilterOptions


class NormFaceHead(CosineHead):
    r"""Softmax cross-entropy of cosines times a scale: no margin, no bias.

    The logit of class j is :math:`s \cos\theta_j`. See ``ClassificationHead`` for the shapes, for
    classes in parts and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        scale: Number s that multiplies the cosines; the first one if it is learned.
        learnable_scale: Whether the scale is learned, as the exponential of a parameter.
        **options: Arguments of ``ClassificationHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Wang et al., NormFace: L2 Hypersphere Embedding for Face Verification. arXiv:1704.06369

    Example:
        >>> import torch
        >>> from framework.embedding.heads import NormFaceHead
        >>> head = NormFaceHead(8, 10, scale=16.0)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.shape, sorted(logs)
        (torch.Size([]), ['embedding_norm', 'target_angle', 'target_cosine'])
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float = 16.0,
        learnable_scale: bool = False,
        **options: Unpack[FilterOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale, **options)
        self.learnable_scale = learnable_scale
        if learnable_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def lengths(self, norms: Tensor) -> Tensor | float:
        """Return the scale."""
        return self.log_scale.exp() if self.learnable_scale else self.scale
