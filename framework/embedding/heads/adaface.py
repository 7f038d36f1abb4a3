"""Softmax with margins that adapt to the quality of an image, as its embedding's norm tells it."""

from __future__ import annotations

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.embedding.heads.angular_margin import clamped
from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_at_least, check_interval, check_positive

EPSILON = 1e-3
"""Least angle, and what is added to the standard deviation, as in the released code."""


class AdaFaceHead(CosineHead):
    r"""Softmax whose margins stress hard samples of good images and easy ones of bad images.

    The logit of the own class is :math:`s (\cos(\theta_y - m q) - m (1 + q))` with the quality
    :math:`q = h (\|x\| - \mu) / \sigma`, clipped to [-1, 1] and without gradient; that of others is
    :math:`s \cos\theta_j`. Mean and standard deviation of the norms are running ones over the
    global batch, updated in training before they are used. See ``ClassificationHead`` for the
    shapes, for classes in parts and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        margin: Size m of both margins.
        concentration: Number h by which many norms lie inside the bounds of the quality.
        momentum: Part of the running statistics that is kept in an update.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Kim et al., AdaFace: Quality Adaptive Margin for Face Recognition. arXiv:2204.00964. As
    in its released code, norms are clipped to [0.001, 100] and the statistics start at a mean of 20
    and a standard deviation of 100.

    Example:
        >>> import torch
        >>> from framework.embedding.heads import AdaFaceHead
        >>> head = AdaFaceHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    norm_mean: Tensor
    norm_std: Tensor
    full_precision: ClassVar[tuple[str, ...] | None] = ("norm_mean", "norm_std")

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        margin: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.99,
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_at_least(0, margin=margin)
        check_positive(concentration=concentration)
        check_interval("[0, 1)", momentum=momentum)
        self.margin = margin
        self.concentration = concentration
        self.momentum = momentum
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def observe(self, scores: Scores) -> None:
        """Update mean and standard deviation of the norms from all ranks."""
        norms = _clipped(scores.norms).double()
        rows, total = all_reduce_sum(torch.stack([norms.new_full((), len(norms)), norms.sum()]))
        mean = total / rows.clamp(min=1)
        squares = all_reduce_sum((norms - mean).square().sum())
        std = (squares / (rows - 1).clamp(min=1)).sqrt()
        for running, value, least in ((self.norm_mean, mean, 1), (self.norm_std, std, 2)):
            step = torch.where(rows >= least, 1 - self.momentum, 0.0)
            running.add_((step * (value - running)).to(running.dtype))

    def quality(self, norms: Tensor) -> Tensor:
        """Return the quality of each row, in [-1, 1], without gradient."""
        centered = _clipped(norms.detach()) - self.norm_mean
        return (self.concentration * centered / (self.norm_std + EPSILON)).clamp(-1, 1)

    def target_logit(self, scores: Scores) -> Tensor:
        """Return the scaled cosine of the shifted angle, less the margin."""
        quality = self.quality(scores.norms)
        angle = clamped(scores.cosine).acos() - self.margin * quality
        shifted = angle.clamp(EPSILON, math.pi - EPSILON).cos()
        return self.scale * (shifted - self.margin * (1 + quality))

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row, and the margins of the cosine."""
        values, logs = super().losses(scores, negatives)
        return values, logs | {"margin": self.margin * (1 + self.quality(scores.norms))}


def _clipped(norms: Tensor) -> Tensor:
    return norms.clamp(1e-3, 100)
