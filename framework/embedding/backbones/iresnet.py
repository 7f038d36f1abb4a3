"""The residual networks of face recognition, which keep the resolution of the stem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from framework.embedding.backbones.checkpointing import checkpointed
from framework.layers.dropout import GlobalDropout
from framework.utilities.checks import check_at_least, check_one_of

LAYERS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
    "iresnet200": (6, 26, 60, 6),
}
"""Blocks of each stage of the published networks."""
WIDTHS = (64, 128, 256, 512)
STAGES = 4

Init = Literal["normal", "kaiming", "xavier"]
BlockKind = Literal["insightface", "sface"]


class IResNet(nn.Module):
    """An improved residual network for faces: a stem of stride 1, pre-normalized blocks, PReLU.

    A block is BN, 3x3 convolution, BN, PReLU, 3x3 convolution (with the stride), BN, plus a
    shortcut, and no activation after the sum; the first of each stage halves the map. The maps
    become the embedding by BN, dropout, a linear layer and BN, whose scale is fixed at 1. The
    embedding is not normalized. Names of parameters are those of insightface's
    ``arcface_torch``, see ``load_insightface``.

    Under automatic mixed precision the linear layer and its BN stay in the weights' precision.

    Shapes: images (B, C, H, W) of any size to (B, ``embedding_dim``).

    Paper: Duta et al., Improved Residual Networks, ICPR 2020, arXiv:2004.04989; Deng et al.,
    ArcFace, CVPR 2019, arXiv:1801.07698, whose code was followed; with ``block='sface'``
    Zhong et al., SFace, TIP 2021, arXiv:2205.12010.

    Args:
        layers: Number of blocks of each of the four stages.
        widths: Number of channels of each stage; the stem has the first's.
        embedding_dim: Size of the embedding.
        input_shape: Shape (C, H, W) of an image.
        dropout: Probability of dropout before the linear layer.
        init: Weights of the convolutions: ``'normal'`` with std 0.1 (insightface), ``'kaiming'``
            by the fan out (UNPG), or ``'xavier'`` with std 2 sqrt(2 / fan out) (SFace).
        block: Block ``'insightface'``, or ``'sface'``: without the BN between the first
            convolution and PReLU, and where only the stride changes, with a shortcut that takes
            every second pixel.
        frozen_scale: Whether the scale of the last BN is fixed at 1 and not trained.
        checkpointing: Whether the backward pass recomputes each block instead of keeping its
            activations.

    Raises:
        ValueError: There are not four stages, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.embedding.backbones import IResNet
        >>> network = IResNet((1, 1, 1, 1), (8, 8, 16, 16), 32, (1, 20, 20))
        >>> tuple(network.forward_features(torch.zeros(2, 1, 20, 20)).shape)
        (2, 16, 2, 2)
        >>> tuple(network(torch.zeros(2, 1, 20, 20)).shape)
        (2, 32)
    """

    def __init__(
        self,
        layers: Sequence[int] = LAYERS["iresnet50"],
        widths: Sequence[int] = WIDTHS,
        embedding_dim: int = 512,
        input_shape: Sequence[int] = (3, 112, 112),
        dropout: float = 0.0,
        init: Init = "normal",
        block: BlockKind = "insightface",
        frozen_scale: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(layers) != STAGES or len(widths) != STAGES:
            raise ValueError(
                f"An IResNet has {STAGES} stages; got {len(layers)} numbers of layers and "
                f"{len(widths)} widths."
            )
        check_at_least(1, embedding_dim=embedding_dim, layers=min(layers), widths=min(widths))
        check_one_of(("normal", "kaiming", "xavier"), init=init)
        check_one_of(("insightface", "sface"), block=block)
        channels, height, width = input_shape
        self.embedding_dim = embedding_dim
        self.checkpointing = checkpointing
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        inputs = [widths[0], *widths]
        stages = [
            _stage(inputs[i], widths[i], layers[i], normalized=block == "insightface")
            for i in range(STAGES)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.dropout = GlobalDropout(dropout, stream="embedding")
        pixels = math.ceil(height / 2**STAGES) * math.ceil(width / 2**STAGES)
        self.fc = nn.Linear(widths[-1] * pixels, embedding_dim)
        self.features = nn.BatchNorm1d(embedding_dim)
        self.features.weight.requires_grad_(not frozen_scale)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_standard_deviation(module, init))

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings, not normalized."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the maps of the last stage."""
        x = self.prelu(self.bn1(self.conv1(image)))
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = checkpointed(block, x) if recompute else block(x)
        return x

    def forward_head(self, maps: Tensor) -> Tensor:
        """Return the embeddings of maps."""
        x = self.dropout(self.bn2(maps).flatten(1))
        with torch.autocast(x.device.type, enabled=False):
            return self.features(self.fc(x.to(self.fc.weight.dtype)))


class Block(nn.Module):
    """One residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int, normalized: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs) if normalized else nn.Identity()
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs or (stride > 1 and normalized):
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        elif stride > 1:
            self.downsample = nn.MaxPool2d(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the shortcut and the convolutions."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


def _stage(inputs: int, outputs: int, blocks: int, normalized: bool) -> nn.Sequential:
    first = Block(inputs, outputs, 2, normalized)
    others = [Block(outputs, outputs, 1, normalized) for _ in range(blocks - 1)]
    return nn.Sequential(first, *others)


def _standard_deviation(convolution: nn.Conv2d, init: Init) -> float:
    fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
    return {
        "normal": 0.1,
        "kaiming": math.sqrt(2 / fan_out),
        "xavier": 2 * math.sqrt(2 / fan_out),
    }[init]
