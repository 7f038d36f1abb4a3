"""Softmax with a margin on the angle, in which hard negatives count more and more."""

from __future__ import annotations

from typing import ClassVar, Unpack

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.embedding.heads.angular_margin import shifted_cosine
from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_interval


class CurricularFaceHead(CosineHead):
    r"""ArcFace whose hard negatives count little at first, and more as the cosines grow.

    The logit of the own class is :math:`s \cos(\theta_y + m)`. That of another class is
    :math:`s \cos\theta_j`, and :math:`s \cos\theta_j (t + \cos\theta_j)` where
    :math:`\cos\theta_j > \cos(\theta_y + m)`. The number t is a running mean of
    :math:`\cos\theta_y` over the global batch, updated in training before it is used, without
    gradient. See ``ClassificationHead`` for the shapes, for classes in parts and for samples of
    classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        margin: Margin m of the angle, in radians.
        momentum: Part of t that is kept in an update.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Huang et al., CurricularFace: Adaptive Curriculum Learning Loss for Deep Face
    Recognition. arXiv:2004.00288

    Example:
        >>> import torch
        >>> from framework.embedding.heads import CurricularFaceHead
        >>> head = CurricularFaceHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> bool(logs["t"] == head.t)
        True
    """

    t: Tensor
    full_precision: ClassVar[tuple[str, ...] | None] = ("t",)

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.5,
        momentum: float = 0.99,
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_interval("[0, 3.141592653589793)", margin=margin)
        check_interval("[0, 1)", momentum=momentum)
        self.margin = margin
        self.momentum = momentum
        self.register_buffer("t", torch.zeros(()))

    def observe(self, scores: Scores) -> None:
        """Update t from the cosines of all ranks."""
        cosine = scores.cosine
        total = torch.stack([cosine.sum(), cosine.new_full((), len(cosine))])
        total, rows = all_reduce_sum(total.double()).to(self.t.dtype)
        # a batch may have no rows
        step = torch.where(rows > 0, 1 - self.momentum, 0.0)
        self.t.add_(step * (total / rows.clamp(min=1) - self.t))

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine of the angle and the margin."""
        return self.scale * shifted_cosine(scores.cosine, self.margin)

    def other_logits(self, scores: Scores) -> Tensor:
        """Return the scaled cosines, those of hard negatives changed."""
        others = scores.others
        bound = self.scale * shifted_cosine(scores.cosine.detach(), self.margin, "none")
        of_hard = (others / self.scale).add_(self.t)
        return others * torch.where(others > bound[:, None], of_hard, 1.0)

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row and t."""
        values, logs = super().losses(scores, negatives)
        return values, logs | {"t": self.t}
