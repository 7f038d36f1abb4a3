"""The neck of YOLOv5: from the coarsest level down, and up again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.detection.csp import CSPBlock, silu_block


class PathAggregationNeck(nn.Module):
    """Joins each level with the coarser one, and then with the finer one, by concatenation.

    On the way down a 1 x 1 convolution to the width of the next finer level and nearest up-sampling
    lead there; on the way up a 3 x 3 convolution of stride 2, whose result is joined with that of
    the 1 x 1 convolution. A ``CSPBlock`` without shortcuts follows every junction.

    Shapes: maps (B, C_k, H_k, W_k) from fine to coarse, each half as large as the one before,
    rounded up, to maps with the channels of ``channels``.

    Papers: Liu et al., *Path Aggregation Network for Instance Segmentation*, arXiv:1803.01534, in
    the form of YOLOv5.

    Args:
        in_channels: Channels C_k of the inputs, from fine to coarse.
        channels: Channels of the outputs, from fine to coarse; even.
        repeats: Bottlenecks of every block.

    Raises:
        ValueError: The numbers of inputs and outputs differ.

    Example:
        >>> neck = PathAggregationNeck((8, 16, 32), channels=(4, 8, 16))
        >>> maps = [torch.zeros(1, c, s, s) for c, s in ((8, 8), (16, 4), (32, 2))]
        >>> [tuple(level.shape) for level in neck(maps)]
        [(1, 4, 8, 8), (1, 8, 4, 4), (1, 16, 2, 2)]
    """

    def __init__(
        self, in_channels: Sequence[int], channels: Sequence[int], repeats: int = 1
    ) -> None:
        super().__init__()
        if len(in_channels) != len(channels):
            raise ValueError(
                f"channels needs a number for each of the {len(in_channels)} levels, got "
                f"{tuple(channels)}."
            )
        self.channels = tuple(channels)
        self.laterals = nn.ModuleList()
        self.down = nn.ModuleList()
        self.strided = nn.ModuleList()
        self.up = nn.ModuleList()
        above = in_channels[-1]
        for level in range(len(channels) - 2, -1, -1):
            width = channels[level]
            self.laterals.append(silu_block(above, width, 1))
            self.down.append(CSPBlock(width + in_channels[level], width, repeats, shortcut=False))
            above = width
        for finer, width in pairwise(channels):
            self.strided.append(silu_block(finer, finer, 3, 2))
            self.up.append(CSPBlock(2 * finer, width, repeats, shortcut=False))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the joined maps, from fine to coarse."""
        *finer_maps, x = maps
        narrowed = []
        for lateral, block, finer in zip(
            self.laterals, self.down, reversed(finer_maps), strict=True
        ):
            narrowed.append(lateral(x))
            above = F.interpolate(narrowed[-1], size=finer.shape[-2:], mode="nearest")
            x = block(torch.cat([above, finer], 1))
        joined = [x]
        for stride, block, coarser in zip(self.strided, self.up, reversed(narrowed), strict=True):
            joined.append(block(torch.cat([stride(joined[-1]), coarser], 1)))
        return joined
