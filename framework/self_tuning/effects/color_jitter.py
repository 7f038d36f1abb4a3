"""Random changes of color by tuned amounts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from framework.self_tuning.draws import Draws
from framework.self_tuning.effects import color
from framework.self_tuning.effects.input_effect import InputEffect
from framework.self_tuning.hyperparameter import HyperParameter
from framework.utilities.devices import to_device
from framework.utilities.precision import at_least_float32

AMOUNT = HyperParameter(init=0.05, low=0.0, high=1.0)
"""Range of the amounts of brightness, contrast and saturation."""

TURN = HyperParameter(init=0.05, low=0.0, high=0.5)
"""Range of the amount of hue, in whole turns."""

ADJUSTMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": color.adjust_brightness,
    "contrast": color.adjust_contrast,
    "saturation": color.adjust_saturation,
    "hue": color.adjust_hue,
}
"""What is changed, in this order."""


class ColorJitter(InputEffect):
    """Changes brightness, contrast, saturation and hue of each image by random factors.

    As torchvision's transform of this name, each image having its own amounts: factors are drawn
    from [1 - amount, 1 + amount], that of hue from [-amount, amount]. The order is always that of
    the arguments, where torchvision draws it. Saturation and hue leave grayscale images as they
    are.

    Shapes: images (B, C, H, W) in [0, 1], C 1 or 3.

    Paper: MacKay et al., *Self-Tuning Networks*, ICLR 2019, arXiv:1903.03088, whose code changes
    images in the data set, there also in a random order.

    Args:
        field: Field of a batch that holds the images.
        name: Prefix of the hyperparameters' names, such as ``NAME.brightness``.
        brightness: Amount of brightness, within (0, 1); None leaves it.
        contrast: Amount of contrast, within (0, 1); None leaves it.
        saturation: Amount of saturation, within (0, 1); None leaves it.
        hue: Amount of hue, within (0, 0.5); None leaves it.
        mean: Mean of each channel that the data set has subtracted; it is added for the time of the
            change.
        std: Standard deviation of each channel that the data set has divided by, likewise.

    Raises:
        ValueError: A range goes beyond, or no amount is left; in a step, images of other channels.

    Example:
        >>> import torch
        >>> from framework.self_tuning import ColorJitter, Draws
        >>> jitter = ColorJitter(contrast=None, saturation=None, hue=None)
        >>> with jitter.at({"brightness": torch.tensor([0.0, 0.9])}, Draws(seed=0, step=0)):
        ...     image = jitter.change_batch({"image": torch.full((2, 1, 2, 2), 0.5)})["image"]
        >>> (image == 0.5).flatten(1).all(1)
        tensor([ True, False])
    """

    def __init__(
        self,
        field: str = "image",
        name: str = "color_jitter",
        brightness: HyperParameter | None = AMOUNT,
        contrast: HyperParameter | None = AMOUNT,
        saturation: HyperParameter | None = AMOUNT,
        hue: HyperParameter | None = TURN,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        amounts = dict(zip(ADJUSTMENTS, (brightness, contrast, saturation, hue), strict=True))
        chosen = {key: amount for key, amount in amounts.items() if amount is not None}
        if not chosen:
            raise ValueError("ColorJitter changes nothing: give at least one amount.")
        for key, amount in chosen.items():
            default = TURN if key == "hue" else AMOUNT
            chosen[key] = amount.within(f"{name}.{key}", default, low=0, high=default.range[1])
        if (mean is None) != (std is None):
            raise ValueError("ColorJitter takes both mean and std of a normalization, or neither.")
        super().__init__(field, name, chosen)
        self.normalization = None if mean is None or std is None else torch.tensor([mean, std])

    def changed(self, x: Tensor, draws: Draws) -> Tensor:
        """Return the images ``x`` with other colors."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name} changes images (B, C, H, W) of 1 or 3 channels, but the field "
                f"{self.field!r} has the shape {tuple(x.shape)}."
            )
        images, mean, std = at_least_float32(x), None, None
        if self.normalization is not None:
            mean, std = to_device(self.normalization.to(images.dtype), x.device)[..., None, None]
            images = images * std + mean
        uniform = draws.uniform(
            self.stream(self.field), len(x), len(ADJUSTMENTS), 1, 1, 1, device=x.device
        )
        for number, (key, adjust) in enumerate(ADJUSTMENTS.items()):
            if key in self.hyperparameters:
                shift = self.value_of(key, x) * (2 * uniform[:, number] - 1)
                images = adjust(images, (shift if key == "hue" else 1 + shift).to(images.dtype))
        if mean is not None:
            images = (images - mean) / std
        return images.to(x.dtype)
