"""GGHL's network: a backbone, a neck, and two heads per level."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor, nn

from framework.detection.conv_block import SLOPE, conv_block
from framework.detection.top_down_neck import TopDownNeck
from modules.gghl.decoding import BOX_CHANNELS

STRIDES = (8, 16, 32)


class PlainBackbone(nn.Module):
    """Two convolutions per halving of the image, for small images and small machines.

    Shapes: images (B, 3, H, W) to three maps at strides 8, 16 and 32.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
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


class TimmBackbone(nn.Module):
    """The maps at strides 8, 16 and 32 of any convolutional timm model.

    ``darknet53`` is given the slope of 0.1 that Darknet's leaky ReLU has. With pretrained weights
    images are normalized as the model expects, otherwise they stay in [0, 1].

    Args:
        name: timm's.
        pretrained: load timm's weights.

    Raises:
        ValueError: timm knows no such model, or it has no maps at these strides.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        import timm

        if name.split(".")[0] not in timm.list_models():
            close = get_close_matches(name, ["plain", *timm.list_models()], n=3, cutoff=0.4)
            raise ValueError(f"No backbone {name!r}; the nearest are {', '.join(close)}.")
        try:
            whole = timm.create_model(name, features_only=True)
            reduction = whole.feature_info.reduction()
            indices = [reduction.index(stride) for stride in STRIDES]
        except (RuntimeError, AttributeError, ValueError):
            raise ValueError(f"{name} has no maps at strides 8, 16 and 32.") from None
        self.body = timm.create_model(
            name, features_only=True, pretrained=pretrained, out_indices=indices
        )
        self.channels = tuple(self.body.feature_info.channels())
        if name.split(".")[0] == "darknet53":
            for module in self.body.modules():
                if isinstance(module, nn.LeakyReLU):
                    module.negative_slope = SLOPE
        config = whole.pretrained_cfg if pretrained else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        for statistic in ("mean", "std"):
            value = torch.tensor(config[statistic]).view(-1, 1, 1)
            self.register_buffer(statistic, value, persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps from fine to coarse."""
        return self.body((image - self.mean) / self.std)


class PyramidNeck(nn.Module):
    """Torchvision's feature pyramid: levels are added from coarse to fine.

    Paper: Lin et al., *Feature Pyramid Networks for Object Detection*, arXiv:1612.03144.

    Args:
        in_channels: of each level, from fine to coarse.
        width: channels of every level.
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
        num_classes: C.
        backbone: ``'plain'`` or any timm name with maps at strides 8, 16 and 32.
        pretrained: load timm's weights.
        widths: channels of the plain backbone at strides 2, 4, 8, 16 and 32.
        neck: ``'top_down'``, by concatenation, or ``'pyramid'``, by addition.
        neck_width: channels of the neck's coarsest level, with ``'pyramid'`` of every level;
            default half of the backbone's last.
        drop_block: probability of DropBlock in ``'top_down'``.
        objectness_bias: the objectness logit of an untrained network; 0 in the released code.

    Raises:
        ValueError: an unknown backbone, or sizes that do not fit.

    Example:
        >>> import torch
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
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        if not 0 <= drop_block < 1:
            raise ValueError(f"drop_block must be in [0, 1), got {drop_block}.")
        self.backbone: PlainBackbone | TimmBackbone
        if backbone == "plain":
            self.backbone = PlainBackbone(widths)
        else:
            self.backbone = TimmBackbone(backbone, pretrained)
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
        """Return what is predicted in each cell (B, N, 10 + C)."""
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
