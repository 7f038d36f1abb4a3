"""Cross-stage partial (CSP) blocks and the backbone that YOLOv5 makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from framework.detection.conv_block import conv_block
from framework.detection.top_down_neck import SpatialPyramidPooling

POOLS = (3, 5, 7)


def silu_block(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return YOLOv5's convolution, batch norm (eps 1e-3, momentum 0.03) and SiLU."""
    return conv_block(
        in_channels,
        out_channels,
        kernel,
        stride,
        activation=nn.SiLU(inplace=True),
        eps=1e-3,
        momentum=0.03,
    )


class Bottleneck(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution of the same width, added to the input or not.

    Shapes: (B, C, H, W) to the same.

    Args:
        channels: Number of channels C.
        shortcut: Whether the input is added.
    """

    def __init__(self, channels: int, shortcut: bool = True) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.body = nn.Sequential(
            silu_block(channels, channels, 1), silu_block(channels, channels, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the map."""
        return x + self.body(x) if self.shortcut else self.body(x)


class CSPBlock(nn.Module):
    """Sends half of the channels through bottlenecks, the other half past them: YOLOv5's C3.

    Shapes: (B, C, H, W) to (B, D, H, W).

    Paper: Wang et al., *CSPNet*, arXiv:1911.11929.

    Args:
        in_channels: Number of channels C.
        out_channels: Number of channels D; even.
        repeats: Number of bottlenecks.
        shortcut: Whether each bottleneck adds its input.

    Example:
        >>> tuple(CSPBlock(8, 16, repeats=2)(torch.zeros(1, 8, 4, 4)).shape)
        (1, 16, 4, 4)
    """

    def __init__(
        self, in_channels: int, out_channels: int, repeats: int = 1, shortcut: bool = True
    ) -> None:
        super().__init__()
        half = out_channels // 2
        self.through = nn.Sequential(
            silu_block(in_channels, half, 1), *(Bottleneck(half, shortcut) for _ in range(repeats))
        )
        self.past = silu_block(in_channels, half, 1)
        self.join = silu_block(2 * half, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map."""
        return self.join(torch.cat([self.through(x), self.past(x)], 1))


def coarsest_stage(in_channels: int, out_channels: int, repeats: int = 1) -> nn.Sequential:
    """Return the stage that halves the coarsest map: pooling, and bottlenecks without shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; even.
        repeats: Number of bottlenecks.
    """
    half = out_channels // 2
    return nn.Sequential(
        silu_block(in_channels, out_channels, 3, 2),
        silu_block(out_channels, half, 1),
        SpatialPyramidPooling(half, POOLS, mix=silu_block(4 * half, out_channels, 1)),
        CSPBlock(out_channels, out_channels, repeats, shortcut=False),
    )


class SpaceToDepth(nn.Module):
    """Moves each 2 x 2 pixels into channels, as ``PixelUnshuffle``, which skips empty batches.

    Shapes: (B, C, 2 H, 2 W) to (B, 4 C, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map."""
        pixels = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return pixels.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


class CSPBackbone(nn.Module):
    """YOLOv5's backbone, from the stem at stride 2 to the coarsest map at stride 32 or 64.

    The stem moves each 2 x 2 pixels into channels, in the order of ``PixelUnshuffle``, before a
    3 x 3 convolution. A stage halves the map and ends with a ``CSPBlock``, which in the last one
    follows max-pools of 3, 5 and 7 and has no shortcuts.

    Shapes: images (B, 3, H, W) to maps (B, ``channels[i]``, ...) at strides 8, 16, 32 and so on.

    Args:
        widths: Channels at strides 2, 4, 8 and so on; at least three.
        repeats: Bottlenecks of the stages, from stride 4 on.

    Raises:
        ValueError: The numbers of widths and repeats do not fit.

    Example:
        >>> backbone = CSPBackbone((8, 16, 32, 64, 96), (1, 3, 3, 1))
        >>> [tuple(level.shape[1:]) for level in backbone(torch.zeros(1, 3, 64, 64))]
        [(32, 8, 8), (64, 4, 4), (96, 2, 2)]
    """

    def __init__(self, widths: Sequence[int], repeats: Sequence[int]) -> None:
        super().__init__()
        if len(widths) < 3 or len(repeats) != len(widths) - 1:
            raise ValueError(
                "widths needs the channels at strides 2, 4, 8 and so on, and repeats one number "
                f"fewer, got {tuple(widths)} and {tuple(repeats)}."
            )
        self.stem = nn.Sequential(SpaceToDepth(), silu_block(12, widths[0], 3))
        self.stages = nn.ModuleList(
            nn.Sequential(silu_block(before, after, 3, 2), CSPBlock(after, after, count))
            for before, after, count in zip(widths[:-2], widths[1:-1], repeats[:-1], strict=True)
        )
        self.stages.append(coarsest_stage(widths[-2], widths[-1], repeats[-1]))
        self.channels = tuple(widths[2:])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps from fine to coarse."""
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
