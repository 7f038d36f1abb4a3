"""Pulls and pushes along the sphere that stop at angles, in place of softmax."""

from __future__ import annotations

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from framework.embedding.heads.angular_margin import CLAMP
from framework.embedding.heads.cosine_head import CosineHead, ScaleOptions
from framework.embedding.heads.head import Scores
from framework.utilities.checks import check_interval, check_positive


class SFaceHead(CosineHead):
    r"""Pull to the own class and push from the others, each with a speed that a sigmoid stops.

    A row's loss is :math:`-r_{in}(\theta_y) \cos\theta_y + \sum_j r_{out}(\theta_j) \cos\theta_j`
    with :math:`r_{in}(\theta) = s / (1 + e^{-k (\theta - a)})` and
    :math:`r_{out}(\theta) = s / (1 + e^{k (\theta - b)})`, both without gradient: samples with a
    wrong label are not learned by heart. The loss is no measure of progress: it rises and falls;
    watch the cosines. There is no denominator, and no use for ``negatives``. See
    ``ClassificationHead`` for the shapes, for classes in parts and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        slope: Slope k of the sigmoids, for each radian.
        pull_angle: Angle a below which the pull to the own class stops, in radians.
        push_angle: Angle b above which the push from another class stops, in radians.
        **options: Arguments of ``CosineHead``.

    Raises:
        ValueError: an argument is out of its range.

    Paper: Zhong et al., SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition.
    arXiv:2205.12010

    Example:
        >>> import torch
        >>> from framework.embedding.heads import SFaceHead
        >>> head = SFaceHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    takes_negatives: ClassVar[bool] = False
    excluded: ClassVar[float] = 0.0

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        slope: float = 80.0,
        pull_angle: float = 0.87,
        push_angle: float = 1.2,
        **options: Unpack[ScaleOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        check_positive(slope=slope)
        # the place of the own class counts as an angle of pi / 2
        check_interval(f"(0, {math.pi / 2})", pull_angle=pull_angle, push_angle=push_angle)
        self.slope = slope
        self.pull_angle = pull_angle
        self.push_angle = push_angle

    def losses(self, scores: Scores, negatives: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of every row, its two parts, and which forces act."""
        pull = self._gate(scores.own, self.pull_angle, self.slope)
        push = self._gate(scores.others, self.push_angle, -self.slope)
        intra = -pull * scores.own
        partial = torch.stack(
            [
                torch.einsum("bc,bc->b", push, scores.others),
                (push > 0.5).sum(1).to(push.dtype),
                push.new_full((len(push),), push.shape[1]),
            ]
        )
        inter, active, classes = self.part.sum(partial)
        logs = {
            "intra": intra,
            "inter": inter,
            "finished": (pull < 0.5).to(pull.dtype),
            "active_negatives": active / (classes - 1),
        }
        return intra + inter, logs

    def _gate(self, products: Tensor, angle: float, slope: float) -> Tensor:
        """Return sigmoid(slope * (theta - angle)) without gradient, in one new tensor."""
        cosine = products.detach() / self.scale
        angles = cosine.clamp_(-1 + CLAMP, 1 - CLAMP).acos_()
        shift = angles.new_full((), -slope * angle)
        return torch.add(shift, angles, alpha=slope, out=angles).sigmoid_()
