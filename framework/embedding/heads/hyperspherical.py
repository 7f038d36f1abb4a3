"""Softmax of scaled cosines, made for classes that are added without training."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.embedding.heads.cosine_head import CosineHead
from framework.embedding.heads.head import FilterOptions
from framework.utilities.checks import check_one_of


class HypersphericalHead(CosineHead):
    r"""Softmax of cosines with class vectors of norm 1, whose embeddings serve novel classes too.

    The logit of class j is :math:`s \cos\theta_j`. A novel class gets the mean direction of its
    embeddings as its vector. See ``ClassificationHead`` for the shapes, for classes in parts and
    for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        scale: Number s that multiplies the cosines.
        constraint: What keeps the norms at 1: ``'reparam'`` divides by them in each forward,
            ``'project'`` takes the vectors as they are, and ``project_`` has to be called after
            each optimizer step.
        **options: Arguments of ``ClassificationHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Pereira et al., Hyperspherical embedding for novel class classification.
    arXiv:2102.03243

    Example:
        >>> import torch
        >>> from framework.embedding.heads import HypersphericalHead
        >>> head = HypersphericalHead(embedding_dim=8, num_classes=10, constraint="project")
        >>> head.weight.norm(dim=1).allclose(torch.ones(10))
        True
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        scale: float = 10.0,
        constraint: str = "reparam",
        **options: Unpack[FilterOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, scale=scale, **options)
        check_one_of(("reparam", "project"), constraint=constraint)
        self.constraint = constraint

    def reset_parameters(self) -> None:
        """Draw the class vectors anew, evenly over the sphere."""
        nn.init.normal_(self.weight)
        self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Divide each class vector by its norm."""
        self.weight.copy_(F.normalize(self.weight))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the scaled cosines, (B, C_r)."""
        if self.constraint == "reparam":
            return super().products(x, weight, bias)
        return F.linear(self.scale * F.normalize(x), weight)
