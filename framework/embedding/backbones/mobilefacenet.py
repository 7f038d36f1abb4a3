"""A small network for face verification on mobile devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.embedding.backbones.checkpointing import checkpointed
from framework.layers.dropout import GlobalDropout
from framework.utilities.checks import check_at_least

STAGES = ((64, 5, 2, 2), (128, 1, 2, 4), (128, 6, 1, 2), (128, 1, 2, 4), (128, 2, 1, 2))
"""Channels, number of blocks, stride of the first and expansion of each stage."""
STRIDE = 16


class MobileFaceNet(nn.Module):
    """Inverted residual blocks with PReLU, then a depthwise convolution over the whole map.

    The last convolution, over all pixels, learns where in the face to look, in the place of an
    average. The embedding is not normalized.

    Shapes: images (B, C, H, W) of any size to (B, ``embedding_dim``).

    Paper: Chen et al., MobileFaceNets, CCBR 2018, arXiv:1804.07573.

    Args:
        embedding_dim: Size of the embedding.
        input_shape: Shape (C, H, W) of an image.
        dropout: Probability of dropout before the linear layer.
        checkpointing: Whether the backward pass recomputes each block instead of keeping its
            activations.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> from framework.embedding.backbones import MobileFaceNet
        >>> network = MobileFaceNet(embedding_dim=128, input_shape=(3, 112, 112))
        >>> sum(p.numel() for p in network.parameters())
        1003136
    """

    def __init__(
        self,
        embedding_dim: int = 512,
        input_shape: Sequence[int] = (3, 112, 112),
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(1, embedding_dim=embedding_dim)
        channels, height, width = input_shape
        self.embedding_dim = embedding_dim
        self.checkpointing = checkpointing
        self.stem = nn.Sequential(
            *_convolution(channels, 64, 3, stride=2), *_convolution(64, 64, 3, groups=64)
        )
        blocks: list[nn.Module] = []
        inputs = 64
        for outputs, repeats, stride, expansion in STAGES:
            for repeat in range(repeats):
                blocks.append(Bottleneck(inputs, outputs, 1 if repeat else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(*_convolution(inputs, 512, 1))
        size = (math.ceil(height / STRIDE), math.ceil(width / STRIDE))
        self.pool = nn.Sequential(
            nn.Conv2d(512, 512, size, groups=512, bias=False), nn.BatchNorm2d(512), nn.Flatten()
        )
        self.dropout = GlobalDropout(dropout, stream="embedding")
        self.linear = nn.Linear(512, embedding_dim, bias=False)
        self.features = nn.BatchNorm1d(embedding_dim)

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings, not normalized."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the maps before the convolution over all pixels."""
        x = self.stem(image)
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpointed(block, x) if recompute else block(x)
        return self.last(x)

    def forward_head(self, maps: Tensor) -> Tensor:
        """Return the embeddings of maps."""
        return self.features(self.linear(self.dropout(self.pool(maps))))


class Bottleneck(nn.Module):
    """One inverted residual block, with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = expansion * inputs
        self.layers = nn.Sequential(
            *_convolution(inputs, inside, 1),
            *_convolution(inside, inside, 3, stride=stride, groups=inside),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        y = self.layers(x)
        return x + y if self.has_shortcut else y


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution, BN and PReLU."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.PReLU(outputs),
    ]
