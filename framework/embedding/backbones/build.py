"""Backbones by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from framework.embedding.backbones.convnet4 import ConvNet4
from framework.embedding.backbones.iresnet import LAYERS, WIDTHS, IResNet
from framework.embedding.backbones.mlp import MLPEmbedder
from framework.embedding.backbones.mobilefacenet import MobileFaceNet
from framework.embedding.backbones.timm_embedder import TimmEmbedder
from framework.utilities.checks import check_interval

IRESNETS = {
    "iresnet_tiny": ((1, 1, 1, 1), (16, 32, 64, 128)),
    **{name: (layers, WIDTHS) for name, layers in LAYERS.items()},
}
"""Layers and widths by name; the first is for tests and laptops."""
CONVNETS = {"conv4": 64, "conv4_32": 32}
"""Widths by name."""
NAMES = (*IRESNETS, "mobilefacenet", *CONVNETS, "mlp")


def build_backbone(
    name: str,
    input_shape: Sequence[int],
    embedding_dim: int | None,
    *,
    dropout: float = 0.0,
    pretrained: bool = False,
    checkpointing: bool = False,
) -> nn.Module:
    """Return a network from images (B, C, H, W) to embeddings (B, d) that are not normalized.

    It is ``forward_head`` of ``forward_features``, and has the attribute ``embedding_dim``.

    Args:
        name: Name ``'iresnet18'``, ``'iresnet34'``, ``'iresnet50'``, ``'iresnet100'``,
            ``'iresnet200'``, ``'iresnet_tiny'``, ``'mobilefacenet'``, ``'conv4'``,
            ``'conv4_32'``, ``'mlp'``, or any that ``timm.list_models()`` gives.
        input_shape: Shape (C, H, W) of an image.
        embedding_dim: Size d of an embedding; None, of ``conv4`` only, for that of its maps.
        dropout: Probability of dropout before the linear layer.
        pretrained: Whether to load timm's weights, which needs a network connection.
        checkpointing: Whether the backward pass recomputes activations instead of keeping them.

    Raises:
        ValueError: The backbone is unknown or does not take one of the arguments.

    Example:
        >>> import torch
        >>> from framework.embedding.backbones import build_backbone
        >>> network = build_backbone("iresnet_tiny", (1, 28, 28), 64)
        >>> tuple(network(torch.zeros(2, 1, 28, 28)).shape)
        (2, 64)
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be [channels, height, width], got {list(input_shape)}.")
    check_interval("[0, 1)", dropout=dropout)
    if pretrained and name in NAMES:
        raise ValueError(
            f"The backbone {name!r} comes without weights: set pretrained to false, or choose a "
            "timm backbone."
        )
    if checkpointing and (name in CONVNETS or name == "mlp"):
        raise ValueError(
            f"The backbone {name!r} recomputes no activations; set checkpointing to false."
        )
    if name in CONVNETS:
        return ConvNet4(embedding_dim, input_shape, CONVNETS[name], dropout)
    if embedding_dim is None:
        raise ValueError(f"The backbone {name!r} needs an embedding_dim; conv4 alone has its own.")
    if name in IRESNETS:
        layers, widths = IRESNETS[name]
        return IResNet(
            layers, widths, embedding_dim, input_shape, dropout, checkpointing=checkpointing
        )
    if name == "mlp":
        return MLPEmbedder(embedding_dim, input_shape, dropout=dropout)
    if name == "mobilefacenet":
        return MobileFaceNet(embedding_dim, input_shape, dropout, checkpointing)
    return TimmEmbedder(
        name, embedding_dim, input_shape, dropout, pretrained, checkpointing, others=NAMES
    )
