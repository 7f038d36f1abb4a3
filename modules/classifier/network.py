"""Networks for classification: two small ones for tiny images, and any timm backbone by name."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from framework.layers.mlp import mlp_body


class ClassifierNetwork(nn.Module):
    """A body that maps images to features, and a linear head.

    Args:
        body: from (B, C, H, W) to (B, D).
        num_features: D.
        num_classes: K.
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
        backbone: ``'mlp'``, ``'cnn'``, or any name that ``timm.list_models()`` gives.
        num_classes: K.
        input_shape: (C, H, W).
        widths: of the layers of ``mlp`` (none: a linear classifier) or the stages of ``cnn``.
        pretrained: load timm's weights (needs a network connection).

    Raises:
        ValueError: unknown name (the sentence names the nearest), ``input_shape`` that is not three
            numbers, or ``cnn`` without widths.
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
    import timm

    if not timm.is_model(backbone.partition(".")[0]):
        near = get_close_matches(backbone, ["mlp", "cnn", *timm.list_models()], n=3, cutoff=0.4)
        raise ValueError(
            f"There is no backbone {backbone!r}; the nearest are {', '.join(near) or 'mlp, cnn'}."
        )
    body = timm.create_model(backbone, pretrained=pretrained, in_chans=channels, num_classes=0)
    was_training = body.training
    with torch.no_grad():
        # timm's num_features is not what every pooling returns, so ask the network itself
        size = body.eval()(torch.zeros(1, channels, height, width)).shape[1]
    return ClassifierNetwork(body.train(was_training), size, num_classes)
