"""Networks for classification: small ones for tiny images, and any timm backbone by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from framework.layers.mlp import mlp_body
from framework.layers.timm_backbone import timm_features
from modules.classifier.alexnet import AlexNetBody


class ClassifierNetwork(nn.Module):
    """A body that maps images to features, and a linear head.

    Args:
        body: Network from images (B, C, H, W) to features (B, D).
        num_features: Number D of features.
        num_classes: Number K of classes.
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and features (B, D)."""
        features = self.body(image)
        return self.head(features), features


def cnn_body(in_channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Return two 3 x 3 convolutions with batch norm per width, halving the size in between."""
    layers: list[nn.Module] = []
    for position, width in enumerate(widths):
        for _ in range(2):
            layers += [
                nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            in_channels = width
        if position + 1 < len(widths):
            layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def build_network(
    backbone: str,
    num_classes: int,
    input_shape: Sequence[int],
    widths: Sequence[int],
    pretrained: bool = False,
) -> ClassifierNetwork:
    """Return the network that ``backbone`` names.

    Args:
        backbone: Name ``'mlp'``, ``'cnn'`` or ``'alexnet'``, or any of ``timm.list_models()``.
        num_classes: Number K of classes.
        input_shape: Shape (C, H, W) of an image.
        widths: Widths of the layers of ``mlp`` (none: a linear classifier) or of the stages of
            ``cnn``; seven of ``alexnet``, see ``AlexNetBody``.
        pretrained: Whether to load timm's weights, which needs a network connection.

    Raises:
        ValueError: The backbone is unknown, ``input_shape`` is not three numbers, ``cnn`` has no
            widths, or ``alexnet`` other than seven or images below 16 x 16.
    """
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be [channels, height, width], got {list(input_shape)}.")
    channels, height, width = input_shape
    if backbone == "mlp":
        inputs = channels * height * width
        return ClassifierNetwork(mlp_body(inputs, widths), [inputs, *widths][-1], num_classes)
    if backbone == "cnn":
        if not widths:
            raise ValueError("The backbone 'cnn' needs at least one width.")
        return ClassifierNetwork(cnn_body(channels, widths), widths[-1], num_classes)
    if backbone == "alexnet":
        return ClassifierNetwork(AlexNetBody(input_shape, widths), widths[-1], num_classes)
    others = ("mlp", "cnn", "alexnet")
    body, size = timm_features(backbone, input_shape, pretrained, others=others)
    return ClassifierNetwork(body, size, num_classes)
