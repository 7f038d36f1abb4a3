"""Networks of contrastive learning: an encoder, and a projector that only training uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from framework.layers.mlp import mlp_body
from framework.utilities.checks import check_at_least
from modules.classifier.network import build_network


def build_encoder(
    backbone: str, input_shape: Sequence[int], widths: Sequence[int], pretrained: bool = False
) -> tuple[nn.Module, int]:
    """Return the network from an example to its representation (B, D), and D.

    Args:
        backbone: Name ``'mlp'``, ``'cnn'`` or ``'alexnet'``, or any of ``timm.list_models()``;
            examples that are no images take ``'mlp'``.
        input_shape: Shape of an example, (C, H, W) of an image.
        widths: Widths of the layers of ``mlp`` or of the stages of ``cnn``.
        pretrained: Whether to load timm's weights, which needs a network connection.

    Raises:
        ValueError: The backbone is unknown, or is for images and the examples are none.

    Example:
        >>> network, width = build_encoder("cnn", (1, 8, 8), (16, 32))
        >>> width
        32
    """
    if len(input_shape) == 3:
        network = build_network(backbone, 1, input_shape, widths, pretrained)
        return network.body, network.head.in_features
    if backbone != "mlp":
        raise ValueError(
            f"The backbone {backbone!r} is for images, and an example has the shape "
            f"{list(input_shape)}: set model.backbone to mlp."
        )
    inputs = math.prod(input_shape)
    return mlp_body(inputs, widths), [inputs, *widths][-1]


def build_projector(num_features: int, widths: Sequence[int]) -> nn.Sequential:
    """Return a perceptron with batch norm and ReLU between its layers, the last without a bias.

    Args:
        num_features: Width D of a representation.
        widths: Widths of the layers; the last is that of the embeddings that are compared.

    Raises:
        ValueError: There is no width, or one below 1.

    Example:
        >>> import torch
        >>> tuple(build_projector(32, (64, 16))(torch.zeros(2, 32)).shape)
        (2, 16)
    """
    check_at_least(1, projector=min(widths, default=0))
    layers: list[nn.Module] = []
    for position, width in enumerate(widths):
        layers.append(nn.Linear(num_features, width, bias=False))
        if position + 1 < len(widths):
            layers += [nn.BatchNorm1d(width), nn.ReLU()]
        num_features = width
    return nn.Sequential(*layers)
