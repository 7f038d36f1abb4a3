"""Softmax of scaled cosines with a margin on the angle."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from framework.embedding.heads.angular_margin import (
    BEYOND,
    GRADIENTS,
    shifted_cosine,
    straight_through,
)
from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_interval, check_one_of


class ArcFaceHead(CosineHead):
    r"""Softmax of scaled cosines, with a margin added to the angle of the own class.

    The logit of the own class is :math:`s \cos(\theta_y + m)`, that of others
    :math:`s \cos\theta_j`. See ``ClassificationHead`` for the shapes, for classes in parts and for
    samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        margin: Margin m of the angle, in radians.
        beyond: What stands for the cosine beyond an angle of pi - m, where it would rise again:
            ``'guard'`` takes cos - m sin m, ``'easy'`` adds no margin beyond pi / 2, ``'none'``
            leaves it, as insightface does.
        margin_grad: Gradient through the margin: ``'exact'``, or ``'straight_through'`` for that of
            the cosine, as in insightface's released code, which stays bounded at small angles.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition.
    arXiv:1801.07698

    Example:
        >>> import torch
        >>> from framework.embedding.heads import ArcFaceHead
        >>> head = ArcFaceHead(embedding_dim=8, num_classes=10, margin=0.5)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        beyond: str = "guard",
        margin_grad: str = "exact",
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_interval("[0, 3.141592653589793)", margin=margin)
        check_one_of(BEYOND, beyond=beyond)
        check_one_of(GRADIENTS, margin_grad=margin_grad)
        self.margin = margin
        self.beyond = beyond
        self.margin_grad = margin_grad

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine of the angle and the margin."""
        shifted = shifted_cosine(scores.cosine, self.margin, self.beyond)
        if self.margin_grad == "straight_through":
            shifted = straight_through(scores.cosine, shifted)
        return self.scale * shifted
