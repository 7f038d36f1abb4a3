"""Networks for large images that keep the number of their positions on smaller ones."""

from __future__ import annotations

from torch import nn

STEM_HALVINGS = 2
"""Halvings of the resolution by a stem, which is a strided convolution and a pooling at most."""


def halve_first_strides(body: nn.Module, times: int) -> None:
    """Halve the first strides of a convolutional network, in place.

    The strides of convolutions are divided by 2 and poolings are left out, from the input on,
    until the network's maps are ``2 ** times`` as large.

    Args:
        body: Network whose layers are registered in the order in which they are called.
        times: Number of halvings.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.MaxPool2d(2))
        >>> halve_first_strides(body, 2)
        >>> body[0].stride, body[1]
        ((1, 1), Identity())
    """
    for name, layer in list(body.named_modules()):
        if isinstance(layer, nn.Conv2d):
            while times and max(layer.stride) > 1:
                layer.stride = tuple(max(1, step // 2) for step in layer.stride)
                times -= 1
        elif (
            times and isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and layer.stride in (2, (2, 2))
        ):
            body.set_submodule(name, nn.Identity())
            times -= 1
