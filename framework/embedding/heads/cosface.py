"""Softmax of scaled cosines with a margin on the cosine."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_at_least


class CosFaceHead(CosineHead):
    r"""Softmax of scaled cosines, of which that of the own class has to be larger by a margin.

    The logit of the own class is :math:`s (\cos\theta_y - m)`, that of others
    :math:`s \cos\theta_j`. Also known as AM-Softmax. See ``ClassificationHead`` for the shapes, for
    classes in parts and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        margin: Margin m of the cosine.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition.
    arXiv:1801.09414

    Example:
        >>> import torch
        >>> from framework.embedding.heads import CosFaceHead
        >>> head = CosFaceHead(embedding_dim=8, num_classes=10, margin=0.35)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.35,
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_at_least(0, margin=margin)
        self.margin = margin

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine less the margin."""
        return scores.own - self.scale * self.margin
