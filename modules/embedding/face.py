"""The face embedder: metric learning with the usual settings of face recognition."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch.optim import Optimizer

from framework.embedding.heads.cosface import CosFaceHead
from framework.training.compatibility import check_clipping
from framework.utilities.checks import check_positive
from modules.embedding.module import Flip, HeadCallable, MetricLearner, MetricLearnerOptions


class FaceEmbedder(MetricLearner):
    """Embeds aligned faces, so that two of one person are nearer than any of two persons.

    It is ``MetricLearner`` with what face recognition takes: an IResNet, a head with a margin, the
    sum of the embeddings of a face and its mirror image in evaluation, and gradients of the
    backbone that are clipped. Images are RGB of 112 x 112 pixels in [-1, 1], see ``Faces``.

    The defaults are those of insightface's arcface_torch.

    The remaining arguments are those of ``MetricLearner``.

    Args:
        backbone: Backbone: ``'iresnet18'`` to ``'iresnet200'``, ``'iresnet_tiny'``,
            ``'mobilefacenet'``, ``'conv4'``, ``'conv4_32'``, ``'mlp'`` or any timm name.
        embedding_dim: Width D of an embedding.
        head: Head that classifies embeddings in training; None for none.
        flip: What an image is evaluated by: itself, the sum of the embeddings of it and its mirror
            image, or both one after the other.
        clip_backbone_norm: Norm that the gradient of the backbone is clipped to; None for no
            clipping. The head is left alone, as its gradient lies on several ranks where it is
            sharded.
        decay_all: Whether weight decay applies to norms and biases, too.
        optimizer: Optimizer of the parameters.
        **options: Further arguments of ``MetricLearner``.

    Raises:
        ValueError: As ``MetricLearner``, or ``clip_backbone_norm`` is not positive.

    Example:
        >>> import torch
        >>> from modules.embedding import FaceEmbedder
        >>> model = FaceEmbedder(
        ...     num_classes=10, input_shape=(3, 32, 32), backbone="iresnet_tiny", embedding_dim=64
        ... )
        >>> tuple(model(torch.zeros(2, 3, 32, 32)).shape)
        (2, 64)
    """

    def __init__(
        self,
        backbone: str = "iresnet50",
        embedding_dim: int = 512,
        head: HeadCallable | None = CosFaceHead,
        flip: Flip = "sum",
        clip_backbone_norm: float | None = 5.0,
        decay_all: bool = True,
        optimizer: OptimizerCallable = torch.optim.SGD,
        **options: Unpack[MetricLearnerOptions],
    ) -> None:
        super().__init__(
            backbone=backbone,
            embedding_dim=embedding_dim,
            head=head,
            flip=flip,
            optimizer=optimizer,
            **options,
        )
        check_positive(clip_backbone_norm=clip_backbone_norm)
        self.clip_backbone_norm = clip_backbone_norm
        self.decay_all = decay_all

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimizer groups, by default one of all parameters."""
        if not self.decay_all:
            return super().parameter_groups()
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def check_optimizer(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that does not fit the run, or the clipping of the backbone."""
        super().check_optimizer(optimizer)
        option, value = "model.clip_backbone_norm", self.clip_backbone_norm
        check_clipping(optimizer, self.trainer, option, value)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of the backbone, and then as the Trainer is told to."""
        if self.clip_backbone_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.clip_backbone_norm)
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
