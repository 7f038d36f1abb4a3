"""GGHL's network: a backbone, a neck, and two heads per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from framework.detection.conv_block import conv_block
from framework.detection.top_down_neck import TopDownNeck
from framework.layers.timm_backbone import TimmBackbone
from framework.utilities.checks import check_at_least, check_interval
from modules.gghl.decoding import BOX_CHANNELS

STRIDES = (8, 16, 32)


class PlainBackbone(nn.Module):
    """Two convolutions per halving of the image, for small images and small machines.

    Shapes: images (B, 3, H, W) to three maps at strides 8, 16 and 32.

    Args:
        widths: Channels at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 48, 64, 96)) -> None:
        super().__init__()
        if len(widths) != 5:
            raise ValueError(f"widths are the channels at strides 2, 4, 8, 16, 32, got {widths}.")
        channels = (3, *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(conv_block(before, after, 3, 2), conv_block(after, after, 3))
            for before, after in zip(channels, widths, strict=False)
        )
        self.channels = tuple(widths[2:])

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps from fine to coarse."""
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps[2:]


class PyramidNeck(nn.Module):
    """Torchvision's feature pyramid: levels are added from coarse to fine.

    Paper: Lin et al., *Feature Pyramid Networks for Object Detection*, arXiv:1612.03144.

    Args:
        in_channels: Channels of each level, from fine to coarse.
        width: Channels of every level behind the neck.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        # starting the command must not wait for torchvision
        from torchvision.ops import FeaturePyramidNetwork

        self.pyramid = FeaturePyramidNetwork(list(in_channels), width, norm_layer=nn.BatchNorm2d)
        self.channels = (width,) * len(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps from fine to coarse."""
        named = {str(level): level_map for level, level_map in enumerate(maps)}
        return list(self.pyramid(named).values())


class GGHLNetwork(nn.Module):
    """Predicts, for every cell of three levels, a box, how it is turned, and its class.

    Shapes: images (B, 3, H, W) in [0, 1], H and W at least 32, to (B, N, 10 + C) with the cells of
    ``Cells``: logarithms of four distances in units of the stride, four
    vertex ratios, the area ratio, the objectness and C classes, all before their activations.

    Paper: Huang et al., arXiv:2109.12848. With ``darknet53``, the neck ``top_down`` and 15 classes
    the network has the 68.78 M parameters of the released code. Neck and heads start from
    N(0, 0.01) and zero biases, as there; ``objectness_bias`` is ours.

    Args:
        num_classes: Number C of classes.
        backbone: Backbone: ``'plain'`` or any timm name with maps at strides 8, 16 and 32.
        pretrained: Whether to load timm's weights.
        widths: Channels of the plain backbone at strides 2, 4, 8, 16 and 32.
        neck: Neck: ``'top_down'``, by concatenation, or ``'pyramid'``, by addition.
        neck_width: Channels of the neck's coarsest level, with ``'pyramid'`` of every level;
            default half of the backbone's last.
        drop_block: Probability of DropBlock in ``'top_down'``; 0.1 in the released code.
        objectness_bias: Objectness logit of an untrained network; 0 in the released code.

    Raises:
        ValueError: The backbone is unknown, or a size is out of its range.

    Example:
        >>> import torch
        >>> from modules.gghl import GGHLNetwork
        >>> network = GGHLNetwork(num_classes=3)
        >>> tuple(network(torch.zeros(2, 3, 64, 96)).shape)
        (2, 126, 13)
    """

    strides = STRIDES

    def __init__(
        self,
        num_classes: int,
        backbone: str = "plain",
        pretrained: bool = False,
        widths: Sequence[int] = (16, 32, 48, 64, 96),
        neck: Literal["top_down", "pyramid"] = "pyramid",
        neck_width: int | None = None,
        drop_block: float = 0.0,
        objectness_bias: float = -4.0,
    ) -> None:
        super().__init__()
        check_at_least(1, num_classes=num_classes)
        check_interval("[0, 1)", drop_block=drop_block)
        self.backbone: PlainBackbone | TimmBackbone
        if backbone == "plain":
            self.backbone = PlainBackbone(widths)
        else:
            self.backbone = TimmBackbone(backbone, STRIDES, pretrained, others=("plain",))
        self.neck: TopDownNeck | PyramidNeck
        if neck == "top_down":
            self.neck = TopDownNeck(self.backbone.channels, neck_width, drop_block)
        else:
            self.neck = PyramidNeck(
                self.backbone.channels, neck_width or self.backbone.channels[-1] // 2
            )
        channels = self.neck.channels
        self.boxes = nn.ModuleList(_head(width, BOX_CHANNELS) for width in channels)
        self.classes = nn.ModuleList(_head(width, num_classes) for width in channels)
        for part in (self.neck, self.boxes, self.classes):
            part.apply(_initialize)
        for head in self.boxes:
            last: nn.Conv2d = head.get_submodule("1")  # type: ignore[assignment]
            assert last.bias is not None
            nn.init.constant_(last.bias[-1:], objectness_bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return the prediction in each cell, (B, N, 10 + C)."""
        levels = self.neck(self.backbone(image))
        predicted = [
            torch.cat([boxes(level), classes(level)], 1).flatten(2)
            for level, boxes, classes in zip(levels, self.boxes, self.classes, strict=True)
        ]
        return torch.cat(predicted, 2).transpose(1, 2)


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_block(channels, 2 * channels, 3), nn.Conv2d(2 * channels, outputs, 1))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
