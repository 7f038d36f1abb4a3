"""ArcFace with several vectors of each class."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from framework.embedding.heads.arcface import ArcFaceHead
from framework.embedding.heads.cosine_head import ScaleOptions
from framework.utilities.checks import check_at_least


class SubCenterArcFaceHead(ArcFaceHead):
    """ArcFace with K vectors of each class, of which the nearest one counts.

    Wrongly labeled images can gather at a vector of their own, and leave the others to the class.
    ``weight`` is (C K, d), with the vectors of a class in neighboring rows. See ``ArcFaceHead`` for
    the margin, and ``ClassificationHead`` for the shapes, for classes in parts and for samples of
    classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        centers: Number K of vectors of a class.
        margin: Margin m of the angle, in radians.
        beyond: What stands for the cosine beyond an angle of pi - m: ``'guard'``, ``'easy'`` or
            ``'none'``.
        margin_grad: Gradient through the margin: ``'exact'`` or ``'straight_through'``.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Deng et al., Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web
    Faces. ECCV 2020.

    Example:
        >>> import torch
        >>> from framework.embedding.heads import SubCenterArcFaceHead
        >>> head = SubCenterArcFaceHead(embedding_dim=8, num_classes=10, centers=3)
        >>> head.weight.shape, head.logits(torch.randn(4, 8)).shape
        (torch.Size([30, 8]), torch.Size([4, 10]))
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        centers: int = 3,
        margin: float = 0.5,
        beyond: str = "guard",
        margin_grad: str = "exact",
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(
            embedding_dim,
            num_classes,
            margin=margin,
            beyond=beyond,
            margin_grad=margin_grad,
            **options,
        )
        check_at_least(1, centers=centers)
        self.centers = centers
        self.weight = nn.Parameter(torch.empty(num_classes * centers, embedding_dim))
        self.reset_parameters()

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the scaled cosine of the nearest vector of each class, (B, C_r)."""
        of_all = super().products(x, weight, bias)
        return of_all.unflatten(1, (len(weight) // self.centers, self.centers)).max(2).values
