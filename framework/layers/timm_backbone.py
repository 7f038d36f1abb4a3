"""Backbones of the timm library, as feature vectors or as maps at given strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from framework.layers.halved_strides import STEM_HALVINGS, halve_first_strides
from framework.utilities.nearest_names import nearest


def check_timm_name(name: str, others: Sequence[str] = ()) -> None:
    """Raise ``ValueError``, with the nearest names, unless timm has a model of this name.

    Args:
        name: Name of the model, with or without the tag of its weights.
        others: Further names that the caller knows, among which the nearest are looked for, too.
    """
    import timm

    model = name.partition(".")[0]
    if not timm.is_model(model):
        near = nearest(model, [*others, *timm.list_models()])
        raise ValueError(f"There is no backbone {name!r}{near}.")


def timm_features(
    name: str,
    input_shape: Sequence[int],
    pretrained: bool = False,
    others: Sequence[str] = (),
    small_images: bool = False,
) -> tuple[nn.Module, int]:
    """Return a timm model without its head, from (B, C, H, W) to (B, D), and D.

    Args:
        name: Name of the model.
        input_shape: Shape (C, H, W) of an image.
        pretrained: Whether to load timm's weights.
        others: Further names that the caller knows.
        small_images: Whether the model is to have about as many positions on these images as on
            those that it was made for: transformers get smaller patches, and stems of
            convolutional networks smaller strides and no pooling, as far as the model allows.

    Raises:
        ValueError: timm has no such model, or it takes no images of this size or returns no vector.
    """
    check_timm_name(name, others)
    channels, height, width = input_shape
    halvings = _halvings(name, height, width) if small_images else 0
    for times in range(halvings, -1, -1):
        try:
            body = _create(name, input_shape, pretrained, times)
            was_training = body.training
            with torch.no_grad():
                # timm's num_features is not what every pooling returns, so ask the network itself
                features = body.eval()(torch.zeros(1, channels, height, width))
            break
        except (AssertionError, RuntimeError, ValueError) as error:
            if times:
                continue
            if pretrained and not isinstance(error, AssertionError):
                raise  # of the download
            usual = timm_sizes(name)
            reason = f" ({str(error).splitlines()[0][:120]})" if str(error) else ""
            raise ValueError(
                f"The backbone {name!r} takes no images of {height} x {width}{reason}; it is made "
                f"for {usual[0]} x {usual[1]}."
            ) from None
    if features.ndim != 2:
        raise ValueError(f"The backbone {name!r} returns no feature vector; choose another.")
    return body.train(was_training), features.shape[1]


def _halvings(name: str, height: int, width: int) -> int:
    """Return how often the usual size is halved until it is about that of an image."""
    ratio = max(timm_sizes(name)) / max(height, width)
    return min(STEM_HALVINGS, max(0, round(math.log2(ratio))))


def _create(name: str, input_shape: Sequence[int], pretrained: bool, halvings: int) -> nn.Module:
    """Return a model whose first strides are halved."""
    import timm

    channels, *size = input_shape
    settings: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    if halvings:
        patch = _patch_size(name)
        if patch is None:
            size = [length * 2**halvings for length in size]
        else:
            settings["patch_size"] = max(1, patch // 2**halvings)
    try:
        body = timm.create_model(name, img_size=tuple(size), pretrained=pretrained, **settings)
    except TypeError:  # a network of convolutions, which asks for no size
        body = timm.create_model(name, pretrained=pretrained, **settings)
    if "patch_size" not in settings:
        halve_first_strides(body, halvings)
    return body


def _patch_size(name: str) -> int | None:
    """Return the side of a transformer's patches, None for other models."""
    import timm

    embedding = getattr(timm.create_model(name, num_classes=0), "patch_embed", None)
    return None if embedding is None else max(embedding.patch_size)


def timm_sizes(name: str) -> tuple[int, int]:
    """Return the height and the width of the images that a model was made for."""
    import timm

    config = timm.get_pretrained_cfg(name)
    _, height, width = (3, 224, 224) if config is None else config.input_size
    return height, width


def timm_normalization(name: str) -> tuple[list[float], list[float]] | None:
    """Return mean and std of the images that a model's weights were trained on, where timm knows.

    Args:
        name: Name of the model.

    Example:
        >>> timm_normalization("resnet18")
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    """
    import timm

    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return None if config is None else (list(config.mean), list(config.std))


class TimmBackbone(nn.Module):
    """The maps of a convolutional timm model at given strides, from fine to coarse.

    ``darknet53`` is given the slope of 0.1 that Darknet's leaky ReLU has. With pretrained weights
    images are normalized as the model expects, otherwise they stay in [0, 1].

    Shapes: images (B, 3, H, W) to one map (B, ``channels[i]``, ...) for each stride.

    Args:
        name: Name of the model.
        strides: Strides of the maps.
        pretrained: Whether to load timm's weights.
        others: Further names that the caller knows.

    Raises:
        ValueError: timm has no such model, or the model has no maps at these strides.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        strides: Sequence[int],
        pretrained: bool = False,
        others: Sequence[str] = (),
    ) -> None:
        super().__init__()
        import timm

        check_timm_name(name, others)
        try:
            whole = timm.create_model(name, features_only=True)
            reduction = whole.feature_info.reduction()
            indices = [reduction.index(stride) for stride in strides]
        except (RuntimeError, AttributeError, ValueError):
            listed = ", ".join(map(str, strides))
            raise ValueError(f"{name} has no maps at strides {listed}.") from None
        self.body = timm.create_model(
            name, features_only=True, pretrained=pretrained, out_indices=indices
        )
        self.channels = tuple(self.body.feature_info.channels())
        if name.partition(".")[0] == "darknet53":
            for module in self.body.modules():
                if isinstance(module, nn.LeakyReLU):
                    module.negative_slope = 0.1
        config = whole.pretrained_cfg if pretrained else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        for statistic in ("mean", "std"):
            value = torch.tensor(config[statistic]).view(-1, 1, 1)
            self.register_buffer(statistic, value, persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps."""
        return self.body((image - self.mean) / self.std)
