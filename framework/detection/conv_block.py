"""Convolution, batch norm and activation: the building block of Darknet-like networks."""

from __future__ import annotations

from torch import nn

SLOPE = 0.1


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    *,
    activation: nn.Module | None = None,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Return a convolution without bias that keeps the size at stride 1, norm and activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd size of the kernel.
        stride: Stride of the convolution.
        activation: Activation; default leaky ReLU with the slope of Darknet.
        eps: Number that batch norm adds to the variance.
        momentum: Weight of a batch in batch norm's running statistics.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels, eps=eps, momentum=momentum),
        nn.LeakyReLU(SLOPE, inplace=True) if activation is None else activation,
    )
