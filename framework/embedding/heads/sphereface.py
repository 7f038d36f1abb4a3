"""Softmax with a margin that multiplies the angle."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor

from framework.embedding.cosine_products import cosine_products
from framework.embedding.heads.angular_margin import clamped
from framework.embedding.heads.head import ClassificationHead, FilterOptions, Scores
from framework.utilities.checks import check_at_least
from framework.utilities.graph_operation import graph_operation


class SphereFaceHead(ClassificationHead):
    r"""Softmax with class vectors of norm 1, and the angle of the own class times a margin.

    The logit of the own class is :math:`\|x\| (\lambda \cos\theta_y + \psi(\theta_y)) /
    (1 + \lambda)` with :math:`\psi(\theta) = (-1)^k \cos(m \theta) - 2k` for :math:`\theta` between
    :math:`k \pi / m` and :math:`(k + 1) \pi / m`, that of others :math:`\|x\| \cos\theta_j`. At the
    t-th training forward, :math:`\lambda = \max(\lambda_{min}, \lambda_0 / (1 + \gamma t))`, so
    that the margin sets in slowly. See ``ClassificationHead`` for the shapes, for classes in parts
    and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        margin: Whole number m that multiplies the angle.
        lambda_start: Weight of the plain cosine at the start.
        lambda_decay: Speed of its decay, for each training forward.
        lambda_min: Weight at which the decay ends.
        **options: Arguments of ``ClassificationHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition.
    arXiv:1704.08063

    Example:
        >>> import torch
        >>> from framework.embedding.heads import SphereFaceHead
        >>> head = SphereFaceHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> logs["lambda"]
        tensor(1000.)
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: int = 4,
        lambda_start: float = 1000.0,
        lambda_decay: float = 0.12,
        lambda_min: float = 5.0,
        **options: Unpack[FilterOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_at_least(1, margin=margin)
        check_at_least(
            0, lambda_start=lambda_start, lambda_decay=lambda_decay, lambda_min=lambda_min
        )
        self.margin = margin
        self.lambda_start = lambda_start
        self.lambda_decay = lambda_decay
        self.lambda_min = lambda_min

    def lengths(self, norms: Tensor) -> Tensor | float:
        """Return the norms of the embeddings."""
        return norms

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the norms times the cosines, (B, C_r)."""
        return cosine_products(x, weight)

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the mean of the plain product and that of the multiplied angle."""
        angle = self.margin * clamped(scores.cosine).acos()
        turns = (angle.detach() / math.pi).floor()
        psi = (1 - 2 * (turns % 2)) * angle.cos() - 2 * turns
        plain = self._lambda()
        return (plain * scores.own + scores.norms * psi) / (1 + plain)

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row and the weight of the plain cosine."""
        values, logs = super().losses(scores, negatives)
        # on the device of the others: a number of the CPU would be waited for where they are joined
        return values, logs | {"lambda": values.new_zeros(()) + self._lambda().to(values.dtype)}

    def _lambda(self) -> Tensor:
        return _annealed(self._count, self.lambda_start, self.lambda_decay, self.lambda_min)


def _like(count: Tensor, start: float, decay: float, least: float) -> Tensor:
    return torch.empty_like(count, dtype=torch.float64)


# compiled code would otherwise take the count as it is when the gradient is computed
@graph_operation(_like)
def _annealed(count: Tensor, start: float, decay: float, least: float) -> Tensor:
    return (start / (1 + decay * count.double())).clamp(min=least)
