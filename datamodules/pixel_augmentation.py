"""Augmentations of colors, which leave all objects where they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datamodules.object_augmentation import Draw, ObjectTransform, PeopleTransform
from framework.data.datasets import Sample
from framework.utilities.checks import check_interval


class PixelTransform(ObjectTransform, PeopleTransform):
    """Changes the colors of an image and leaves its objects where they are.

    Args:
        transform: Module from image to image, such as ``torchvision.transforms.v2.ColorJitter``;
            one that moves pixels would leave the objects behind.

    Example:
        >>> from torchvision.transforms.v2 import Grayscale
        >>> sample = {"image": torch.rand(3, 4, 4), "quads": torch.zeros(0, 4, 2)}
        >>> image = PixelTransform(Grayscale(3))(sample, draw=lambda: sample)["image"]
        >>> bool((image[0] == image[1]).all())
        True
    """

    def __init__(self, transform: nn.Module) -> None:
        self.transform = transform

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample with other colors."""
        return {**sample, "image": self.transform(sample["image"])}


class RandomHSV(ObjectTransform, PeopleTransform):
    """Multiplies hue, saturation and value of an image by random factors, as YOLOv5 does.

    A factor is uniform in 1 - gain to 1 + gain. Hues of 1 and more begin again at 0, and saturation
    and value end at 1.

    Args:
        hue: Gain of the hue.
        saturation: Gain of the saturation.
        value: Gain of the value.

    Raises:
        ValueError: A gain outside 0..1.

    Example:
        >>> sample = {"image": torch.full((3, 2, 2), 0.5)}
        >>> image = RandomHSV(value=0.0)(sample, draw=lambda: sample)["image"]
        >>> bool(image.allclose(sample["image"]))  # gray has neither hue nor saturation
        True
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4) -> None:
        check_interval("[0, 1]", hue=hue, saturation=saturation, value=value)
        self.gains = torch.tensor([hue, saturation, value])

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample with other colors."""
        factors = 1 + (2 * torch.rand(3) - 1) * self.gains
        return {**sample, "image": scale_hsv(sample["image"], factors)}


def scale_hsv(image: Tensor, factors: Tensor) -> Tensor:
    """Return an image (3, H, W) in [0, 1] with hue, saturation and value times three factors.

    Example:
        >>> red = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1)
        >>> scale_hsv(red, torch.tensor([1.0, 0.5, 1.0])).flatten()
        tensor([0.8000, 0.5000, 0.5000])
    """
    value, largest = image.max(0)
    chroma = value - image.amin(0)
    # a gray pixel has no hue, for which 0 serves as well as any
    sixths = (image.roll(-1, 0) - image.roll(-2, 0)) / chroma.clamp(min=1e-12)
    hue = (sixths.gather(0, largest[None])[0] + 2 * largest) % 6 / 6
    saturation = chroma / value.clamp(min=1e-12)
    hue = hue * factors[0] % 1
    saturation = (saturation * factors[1]).clamp(max=1)
    value = (value * factors[2]).clamp(max=1)
    place = (torch.tensor([5, 3, 1]).view(3, 1, 1) + 6 * hue) % 6
    return value * (1 - saturation * torch.minimum(place, 4 - place).clamp(0, 1))
