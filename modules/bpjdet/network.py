"""BPJDet's network: a backbone, a neck, and one convolution per level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from framework.detection.csp import CSPBackbone, coarsest_stage
from framework.detection.path_aggregation_neck import PathAggregationNeck
from framework.layers.timm_backbone import TimmBackbone
from framework.utilities.checks import check_at_least, check_one_of
from modules.bpjdet.anchor_grid import BOX_CHANNELS, OBJECTNESS

STRIDES = (8, 16, 32, 64)
WIDTHS = (64, 128, 256, 512, 768, 1024)
"""Channels of size ``l`` at strides 2 to 64."""
BACKBONE_REPEATS = (3, 9, 9, 3, 3)
"""Bottlenecks of size ``l`` at strides 4 to 64."""
NECK_REPEATS = 3

Size = Literal["tiny", "nano", "s", "m", "l"]


class Scale(NamedTuple):
    """Shares of the channels and of the bottlenecks of size ``l``."""

    width: float
    depth: float

    def channels(self, levels: int) -> tuple[int, ...]:
        """Return the channels at strides 2 to the coarsest of so many levels from stride 8 on."""
        return tuple(int(width * self.width) for width in WIDTHS[: 2 + levels])

    def repeats(self, number: int) -> int:
        """Return how many bottlenecks stand for a number of them."""
        return max(1, round(number * self.depth))


SCALES: dict[Size, Scale] = {
    "tiny": Scale(1 / 8, 1 / 3),
    "nano": Scale(1 / 4, 1 / 3),
    "s": Scale(1 / 2, 1 / 3),
    "m": Scale(3 / 4, 2 / 3),
    "l": Scale(1, 1),
}


class TimmLevels(nn.Module):
    """A timm backbone with maps at strides 8, 16 and 32, and a further stage for stride 64.

    Shapes: images (B, 3, H, W) to maps (B, ``channels[i]``, ...) at the strides.

    Args:
        name: Name of the model.
        pretrained: Whether to load timm's weights.
        strides: Strides, (8, 16, 32) or (8, 16, 32, 64).
        width: Channels at stride 64.
        repeats: Bottlenecks at stride 64.
    """

    def __init__(
        self, name: str, pretrained: bool, strides: Sequence[int], width: int, repeats: int
    ) -> None:
        super().__init__()
        self.body = TimmBackbone(name, strides[:3], pretrained)
        self.further = nn.ModuleList()
        self.channels = self.body.channels
        if len(strides) > 3:
            self.further.append(coarsest_stage(self.channels[-1], width, repeats))
            self.channels = (*self.channels, width)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps from fine to coarse."""
        maps = list(self.body(image))
        for stage in self.further:
            maps.append(stage(maps[-1]))
        return maps


class BPJDetNetwork(nn.Module):
    """Predicts a box, its class and the centers of its K slots for every anchor of every cell.

    Shapes: images (B, 3, H, W) in [0, 1], H and W multiples of the coarsest stride, to (B, N, D)
    with D = 5 + C + 2 K + S: box (4), objectness, C classes, x and y of each slot, S states, all
    before their activations. The N predictions lie level by level, from fine to coarse, and in a
    level by anchor, row and column: prediction ``(anchor * rows + row) * columns + column``.

    Paper: Zhou et al., arXiv:2304.10765: YOLOv5 with four levels, in the sizes ``s``, ``m`` and
    ``l``; ``nano`` and ``tiny`` have 1/4 and 1/8 of the channels of ``l`` and the repeats of ``s``.
    With a timm backbone ``size`` is that of the neck and of the stage at stride 64, which timm's
    models lack. The first convolution takes its 12 channels in the order of ``PixelUnshuffle``,
    and YOLOv5's by pixel before color, which weights of theirs would have to be sorted by.

    Args:
        num_classes: Number C of classes; 0 is the body.
        num_slots: Number K of slots for the parts of a body; 0 is YOLOv5.
        num_anchors: Number of anchors of a level.
        size: Size of the network.
        backbone: Name of a timm model with maps at strides 8, 16 and 32; None for YOLOv5's.
        pretrained: Whether to load timm's weights.
        strides: Strides of the levels, (8, 16, 32, 64) or (8, 16, 32).
        num_states: Number S of states of a contact; 8 for the hands of ContactHands.
        image_size: Side of a usual image in pixels, on which the untrained network expects about 8
            objects per level and anchor.

    Raises:
        ValueError: The backbone is unknown, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.bpjdet import BPJDetNetwork
        >>> network = BPJDetNetwork(num_classes=2, num_slots=1, size="tiny", strides=(8, 16, 32))
        >>> tuple(network(torch.zeros(2, 3, 64, 96)).shape)
        (2, 378, 9)
    """

    def __init__(
        self,
        num_classes: int,
        num_slots: int,
        num_anchors: int = 3,
        size: Size = "s",
        backbone: str | None = None,
        pretrained: bool = False,
        strides: Sequence[int] = STRIDES,
        num_states: int = 0,
        image_size: int = 640,
    ) -> None:
        super().__init__()
        check_at_least(1, num_classes=num_classes, num_anchors=num_anchors, image_size=image_size)
        check_at_least(0, num_slots=num_slots, num_states=num_states)
        check_one_of(get_args(Size), size=size)
        if tuple(strides) not in (STRIDES, STRIDES[:3]):
            raise ValueError(f"strides must be {STRIDES} or {STRIDES[:3]}, got {tuple(strides)}.")
        if pretrained and backbone is None:
            raise ValueError("pretrained needs a backbone of timm; set backbone, or leave it out.")
        self.strides = tuple(strides)
        self.num_anchors = num_anchors
        self.num_outputs = BOX_CHANNELS + num_classes + 2 * num_slots + num_states
        scale = SCALES[size]
        widths = scale.channels(len(strides))
        self.backbone: CSPBackbone | TimmLevels
        if backbone is None:
            counts = BACKBONE_REPEATS[: 1 + len(strides)]
            self.backbone = CSPBackbone(widths, [scale.repeats(count) for count in counts])
        else:
            repeats = scale.repeats(BACKBONE_REPEATS[-1])
            self.backbone = TimmLevels(backbone, pretrained, strides, widths[-1], repeats)
        self.neck = PathAggregationNeck(
            self.backbone.channels, widths[2:], scale.repeats(NECK_REPEATS)
        )
        self.heads = nn.ModuleList(
            _head(width, num_anchors, self.num_outputs, num_classes, stride / image_size)
            for width, stride in zip(self.neck.channels, strides, strict=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the predictions, (B, N, D).

        Raises:
            ValueError: A side of the images is no multiple of the coarsest stride.
        """
        height, width = image.shape[-2:]
        if height % self.strides[-1] or width % self.strides[-1]:
            raise ValueError(
                f"The sides of an image must be multiples of {self.strides[-1]}, got "
                f"{height} x {width}."
            )
        levels = self.neck(self.backbone(image))
        predicted = []
        for level, head in zip(levels, self.heads, strict=True):
            # (B, A * D, H, W) to (B, A * H * W, D)
            outputs = head(level).unflatten(1, (self.num_anchors, self.num_outputs))
            predicted.append(outputs.movedim(2, -1).flatten(1, 3))
        return torch.cat(predicted, 1)


def _head(
    width: int, num_anchors: int, num_outputs: int, num_classes: int, cell: float
) -> nn.Conv2d:
    """Return a level's convolution; ``cell`` is the stride as a share of the image's side.

    Its biases expect about 8 objects in an image for every anchor, and of each class the odds
    0.6 / (C - 0.99).
    """
    head = nn.Conv2d(width, num_anchors * num_outputs, 1)
    assert head.bias is not None
    with torch.no_grad():
        bias = head.bias.view(num_anchors, num_outputs)
        bias[:, OBJECTNESS] += math.log(8 * cell**2)
        bias[:, BOX_CHANNELS : BOX_CHANNELS + num_classes] += math.log(0.6 / (num_classes - 0.99))
    return head
