"""Convolution, batch norm and leaky ReLU: the building block of Darknet-like networks."""

from __future__ import annotations

from torch import nn

SLOPE = 0.1


def conv_block(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias that keeps the size at stride 1, norm and leaky ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(SLOPE, inplace=True),
    )
