"""The AlexNet of self-tuning networks: five convolutions and two hidden layers, no batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout

PUBLISHED = (64, 192, 384, 256, 256, 4096, 4096)
"""Widths of the paper's code."""
POOLED = (0, 1, 4)
"""Convolutions that a pooling follows, which halves the size."""


class AlexNetBody(nn.Module):
    """Convolutions of 3 x 3, the first with stride 2, each followed by ReLU; two hidden layers.

    The layers ``conv_dropouts.0`` to ``.4`` drop channels, and ``dropouts.0`` and ``.1`` what each
    hidden layer gets. Their rate is 0, for callbacks to set.

    Shapes: (B, C, H, W) to (B, D), D the last width; H and W at least 16.

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, after Krizhevsky,
    Sutskever, Hinton, NeurIPS 2012; layers and places of dropout are those of its code.

    Args:
        input_shape: Shape (C, H, W) of an image.
        widths: Widths of the five convolutions and of the two hidden layers.

    Raises:
        ValueError: There are not seven widths, or the images are smaller than 16 x 16.

    Example:
        >>> import torch
        >>> body = AlexNetBody((3, 32, 32), widths=(8, 8, 8, 8, 8, 16, 16))
        >>> tuple(body(torch.zeros(2, 3, 32, 32)).shape)
        (2, 16)
    """

    def __init__(self, input_shape: Sequence[int], widths: Sequence[int] = PUBLISHED) -> None:
        super().__init__()
        if len(widths) != 7:
            raise ValueError(
                "The backbone 'alexnet' needs seven widths, of five convolutions and two hidden "
                f"layers; it got {list(widths)}, and those of the paper are {list(PUBLISHED)}."
            )
        channels, height, width = input_shape
        if min(height, width) < 16:
            raise ValueError(
                f"The backbone 'alexnet' needs images of at least 16 x 16 pixels, got {height} x "
                f"{width}."
            )
        sizes = [channels, *widths[:5]]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=1 if k else 2, padding=1)
            for k, (before, after) in enumerate(pairwise(sizes))
        )
        self.conv_dropouts = nn.ModuleList(
            GlobalDropout(0.0, stream=f"alexnet/conv{k}") for k in range(5)
        )
        # the first convolution halves the size too, and rounds it up
        area = (height + 1) // 2 // 8 * ((width + 1) // 2 // 8)
        sizes = [widths[4] * area, *widths[5:]]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.dropouts = nn.ModuleList(GlobalDropout(0.0, stream=f"alexnet/{k}") for k in range(2))

    def forward(self, image: Tensor) -> Tensor:
        """Return features (B, D)."""
        x = image
        for k, (conv, dropout) in enumerate(zip(self.convs, self.conv_dropouts, strict=True)):
            x = F.relu(conv(x))
            if k in POOLED:
                x = F.max_pool2d(x, 2)
            if self.training:
                x = x * dropout(x.new_ones(*x.shape[:2], 1, 1))
        x = x.flatten(1)
        for layer, dropout in zip(self.hidden, self.dropouts, strict=True):
            x = F.relu(layer(dropout(x)))
        return x
