"""Softmax of scaled cosines with three kinds of margins."""

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
from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive


class CombinedMarginHead(CosineHead):
    r"""Softmax of scaled cosines with margins of SphereFace, ArcFace and CosFace at once.

    The logit of the own class is :math:`s (\cos(m_1 \theta_y + m_2) - m_3)`, that of others
    :math:`s \cos\theta_j`. See ``ClassificationHead`` for the shapes, for classes in parts and for
    samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        multiplier: Number m_1 that multiplies the angle.
        angular_margin: Margin m_2 of the angle, in radians.
        margin: Margin m_3 of the cosine.
        beyond: What stands for the cosine beyond a shifted angle of pi, where it would rise again:
            ``'guard'`` goes on with a falling one, ``'easy'`` changes no angle beyond pi / 2,
            ``'none'`` leaves it.
        margin_grad: Gradient through the margins: ``'exact'``, or ``'straight_through'`` for that
            of the cosine.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition.
    arXiv:1801.07698

    Example:
        >>> import torch
        >>> from framework.embedding.heads import CombinedMarginHead
        >>> head = CombinedMarginHead(8, 10, multiplier=1.0, angular_margin=0.3, margin=0.2)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        multiplier: float = 1.0,
        angular_margin: float = 0.3,
        margin: float = 0.2,
        beyond: str = "guard",
        margin_grad: str = "exact",
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_positive(multiplier=multiplier)
        check_interval("[0, 3.141592653589793)", angular_margin=angular_margin)
        check_at_least(0, margin=margin)
        check_one_of(BEYOND, beyond=beyond)
        check_one_of(GRADIENTS, margin_grad=margin_grad)
        self.multiplier = multiplier
        self.angular_margin = angular_margin
        self.margin = margin
        self.beyond = beyond
        self.margin_grad = margin_grad

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine of the shifted angle, less the margin."""
        shifted = shifted_cosine(
            scores.cosine, self.angular_margin, self.beyond, multiplier=self.multiplier
        )
        if self.margin_grad == "straight_through":
            shifted = straight_through(scores.cosine, shifted)
        return self.scale * (shifted - self.margin)
