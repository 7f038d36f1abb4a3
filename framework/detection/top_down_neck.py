"""The neck of YOLOv3-SPP: from the coarsest level down, by concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.detection.conv_block import conv_block
from framework.layers.drop_block import GlobalDropBlock

POOLS = (5, 9, 13)


class SpatialPyramidPooling(nn.Module):
    """Joins the input with its max-pools of several sizes, and mixes them.

    Shapes: (B, C, H, W) to (B, D, H, W), where D is C unless ``mix`` is given.

    Args:
        channels: Number of channels C.
        pools: Odd sizes of the pools, at stride 1.
        mix: Module from the C * (1 + number of pools) joined channels to D; default a 1 x 1
            convolution with a bias and without norm or activation.
    """

    def __init__(
        self, channels: int, pools: Sequence[int] = POOLS, mix: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.pools = tuple(pools)
        joined = (len(self.pools) + 1) * channels
        self.mix = nn.Conv2d(joined, channels, 1) if mix is None else mix

    def forward(self, x: Tensor) -> Tensor:
        """Return the mixed map."""
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in self.pools]
        return self.mix(torch.cat([x, *pooled], 1))


class TopDownNeck(nn.Module):
    """Refines the coarsest level, then each finer one joined with what came from above.

    A level's block is five convolutions, 1 x 1 and 3 x 3 in turn, with DropBlock before the last
    two; on the coarsest level spatial pyramid pooling follows the first. A 1 x 1 convolution to
    half the channels and nearest up-sampling lead to the next finer level.

    Shapes: maps (B, C_k, H_k, W_k) from fine to coarse, each half as large as the one before, to
    maps with the channels of ``channels``.

    Papers: Redmon and Farhadi, *YOLOv3*, arXiv:1804.02767; Huang et al., *A General Gaussian
    Heatmap Label Assignment for Arbitrary-Oriented Object Detection*, arXiv:2109.12848, whose
    released code has this neck.

    Args:
        in_channels: Channels C_k of the inputs, from fine to coarse.
        width: Channels of the coarsest output, halved at every finer level; default half of the
            coarsest input's.
        drop_block: Probability of DropBlock, with blocks of 3 x 3, the same in all channels.

    Raises:
        ValueError: ``width`` is too small to be halved.

    Example:
        >>> import torch
        >>> neck = TopDownNeck((8, 16, 32))
        >>> maps = [torch.zeros(1, c, s, s) for c, s in ((8, 8), (16, 4), (32, 2))]
        >>> [tuple(level.shape) for level in neck(maps)]
        [(1, 4, 8, 8), (1, 8, 4, 4), (1, 16, 2, 2)]
    """

    def __init__(
        self, in_channels: Sequence[int], width: int | None = None, drop_block: float = 0.0
    ) -> None:
        super().__init__()
        levels = len(in_channels)
        width = in_channels[-1] // 2 if width is None else width
        self.channels = tuple(width >> (levels - 1 - level) for level in range(levels))
        if self.channels[0] < 1:
            raise ValueError(f"A neck of {levels} levels needs width >= {2 ** (levels - 1)}.")
        self.blocks = nn.ModuleList()
        self.laterals = nn.ModuleList()
        for level, (size, channels) in enumerate(zip(in_channels, self.channels, strict=True)):
            coarsest = level == levels - 1
            first = size if coarsest else size + channels
            if not coarsest:
                self.laterals.append(conv_block(self.channels[level + 1], channels, 1))
            self.blocks.append(_block(first, channels, drop_block, pooling=coarsest))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the refined maps, from fine to coarse."""
        refined = [self.blocks[-1](maps[-1])]
        for level in range(len(maps) - 2, -1, -1):
            above = self.laterals[level](refined[0])
            above = F.interpolate(above, size=maps[level].shape[-2:], mode="nearest")
            refined.insert(0, self.blocks[level](torch.cat([above, maps[level]], 1)))
        return refined


def _block(in_channels: int, channels: int, drop_block: float, *, pooling: bool) -> nn.Sequential:
    layers: list[nn.Module] = [conv_block(in_channels, channels, 1)]
    if pooling:
        layers.append(SpatialPyramidPooling(channels))
    layers += [conv_block(channels, 2 * channels, 3), conv_block(2 * channels, channels, 1)]
    if drop_block:
        layers.append(GlobalDropBlock(drop_block, stream=f"drop_block {channels}"))
    layers += [conv_block(channels, 2 * channels, 3), conv_block(2 * channels, channels, 1)]
    return nn.Sequential(*layers)
