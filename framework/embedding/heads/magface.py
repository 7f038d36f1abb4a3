"""Softmax with a margin on the angle that grows with the norm of the embedding."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from framework.embedding.heads.angular_margin import BEYOND, shifted_cosine
from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive


class MagFaceHead(CosineHead):
    r"""ArcFace whose margin grows with the norm of an embedding, which so tells its quality.

    With :math:`a = \|x\|` clipped to :math:`[l_a, u_a]`, the margin of the angle is linear in a,
    from :math:`l_m` to :math:`u_m`, and :math:`\lambda_g (a / u_a^2 + 1 / a)` is added to a row's
    loss. See ``ClassificationHead`` for the shapes, for classes in parts and for samples of
    classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        min_norm: Norm l_a, below which the margin is the least one.
        max_norm: Norm u_a, above which the margin is the largest one.
        min_margin: Least margin l_m of the angle, in radians.
        max_margin: Largest margin u_m of the angle, in radians.
        norm_weight: Weight lambda_g of the term that favors large norms.
        beyond: What stands for the cosine beyond an angle of pi less the margin: ``'guard'``,
            ``'easy'`` or ``'none'``, see ``ArcFaceHead``.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Meng et al., MagFace: A Universal Representation for Face Recognition and Quality
    Assessment. arXiv:2103.06627

    Example:
        >>> import torch
        >>> from framework.embedding.heads import MagFaceHead
        >>> head = MagFaceHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(20 * torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> 0.45 < logs["margin"] < 0.8
        tensor(True)
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        min_norm: float = 10.0,
        max_norm: float = 110.0,
        min_margin: float = 0.45,
        max_margin: float = 0.8,
        norm_weight: float = 35.0,
        beyond: str = "guard",
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_positive(min_norm=min_norm)
        check_at_least(0, norm_weight=norm_weight)
        if not min_norm < max_norm:
            raise ValueError(f"max_norm must be above min_norm, {min_norm}, got {max_norm}.")
        check_interval(f"[{min_margin}, 3.141592653589793)", max_margin=max_margin)
        check_at_least(0, min_margin=min_margin)
        check_one_of(BEYOND, beyond=beyond)
        self.min_norm = min_norm
        self.max_norm = max_norm
        self.min_margin = min_margin
        self.max_margin = max_margin
        self.norm_weight = norm_weight
        self.beyond = beyond

    def margins(self, norms: Tensor) -> Tensor:
        """Return the margin of each row, in radians."""
        share = (self._clipped(norms) - self.min_norm) / (self.max_norm - self.min_norm)
        return self.min_margin + (self.max_margin - self.min_margin) * share

    def norm_term(self, norms: Tensor) -> Tensor:
        """Return the term of each row that favors large norms, without its weight."""
        clipped = self._clipped(norms)
        return clipped / self.max_norm**2 + 1 / clipped

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine of the angle and the row's margin."""
        margins = self.margins(scores.norms)
        return self.scale * shifted_cosine(scores.cosine, margins, self.beyond)

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row with the term of its norm, and the margins."""
        values, logs = super().losses(scores, negatives)
        values = values + self.norm_weight * self.norm_term(scores.norms)
        return values, logs | {"margin": self.margins(scores.norms)}

    def _clipped(self, norms: Tensor) -> Tensor:
        return norms.clamp(self.min_norm, self.max_norm)
