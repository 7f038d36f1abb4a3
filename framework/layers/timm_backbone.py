"""Backbones of the timm library, as feature vectors or as maps at given strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
    name: str, input_shape: Sequence[int], pretrained: bool = False, others: Sequence[str] = ()
) -> tuple[nn.Module, int]:
    """Return a timm model without its head, from (B, C, H, W) to (B, D), and D.

    Args:
        name: Name of the model.
        input_shape: Shape (C, H, W) of an image.
        pretrained: Whether to load timm's weights.
        others: Further names that the caller knows.

    Raises:
        ValueError: timm has no such model, or it takes no images of this size or returns no vector.
    """
    import timm

    check_timm_name(name, others)
    channels, height, width = input_shape
    settings = {"pretrained": pretrained, "in_chans": channels, "num_classes": 0}
    try:
        try:
            body = timm.create_model(name, img_size=(height, width), **settings)
        except TypeError:  # a network of convolutions, which asks for no size
            body = timm.create_model(name, **settings)
        was_training = body.training
        with torch.no_grad():
            # timm's num_features is not what every pooling returns, so ask the network itself
            features = body.eval()(torch.zeros(1, channels, height, width))
    except (AssertionError, RuntimeError, ValueError) as error:
        if pretrained and not isinstance(error, AssertionError):
            raise  # of the download
        usual = timm_sizes(name)
        reason = f" ({str(error).splitlines()[0][:120]})" if str(error) else ""
        raise ValueError(
            f"The backbone {name!r} takes no images of {height} x {width}{reason}; it is made for "
            f"{usual[0]} x {usual[1]}."
        ) from None
    if features.ndim != 2:
        raise ValueError(f"The backbone {name!r} returns no feature vector; choose another.")
    return body.train(was_training), features.shape[1]


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
