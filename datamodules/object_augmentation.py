"""What augmentations of images with objects share: their bases, partners, and moving pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from framework.data.datasets import Sample

Draw = Callable[[], Sample]
"""Returns a random sample of the training set, as far transformed as the one at hand."""


class SampleTransform:
    """Base of what changes a training image together with what is known of it.

    Random numbers come from the global generators, which the datamodule seeds for every sample.
    """

    mixes_samples = False
    """True if the result shows objects of several images."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the transformed sample, the given one unchanged.

        Args:
            sample: Sample with ``image`` (3, H, W) float32 and the fields of its objects.
            draw: Function that returns another sample of the training set.
        """
        raise NotImplementedError(f"{type(self).__name__} transforms nothing.")


class ObjectTransform(SampleTransform):
    """Base of what changes a training image together with its oriented objects."""


class PeopleTransform(SampleTransform):
    """Base of what changes a training image together with its people and their parts."""

    slot_names: Sequence[str] = ()
    """Name of the class of each slot's part."""

    def use_slots(self, slot_names: Sequence[str]) -> None:
        """Learn what the data's slots of parts are; the datamodule calls it before training.

        Args:
            slot_names: Name of the class of each slot's part.
        """
        self.slot_names = slot_names


class ObjectAugmentation:
    """Applies transforms in turn; partners have gone through those before the one that asks.

    Args:
        transforms: Transforms in their order.
        partners: Training set that partners are drawn from.
    """

    def __init__(self, transforms: Sequence[SampleTransform], partners: Dataset[Sample]) -> None:
        self.transforms = transforms
        self.partners = partners

    def __call__(self, sample: Sample) -> Sample:
        """Return the augmented sample; random numbers come from the global generators."""
        return self._apply(sample, len(self.transforms))

    def _apply(self, sample: Sample, number: int) -> Sample:
        for position, transform in enumerate(self.transforms[:number]):
            sample = transform(sample, partial(self._partner, position))
        return sample

    def _partner(self, number: int) -> Sample:
        row = int(torch.randint(len(self.partners), ()))  # type: ignore[arg-type]
        return self._apply(self.partners[row], number)


def warp_image(image: Tensor, matrix: Tensor, size: tuple[int, int], gray: float) -> Tensor:
    """Return an image under an affine map of its pixels, by bilinear interpolation.

    Args:
        image: Image (C, H, W) float32.
        matrix: Map (3, 3) float64 from (x, y, 1) in the image to (x, y, 1) in the result.
        size: Size (H', W') of the result.
        gray: Value where nothing was.

    Example:
        >>> shift = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        >>> warp_image(torch.ones(1, 1, 2), shift, (1, 3), gray=0.5)
        tensor([[[0.5000, 1.0000, 1.0000]]])
    """
    height, width = size
    back = torch.linalg.inv(matrix)
    x = torch.arange(width, dtype=torch.float64) + 0.5
    y = torch.arange(height, dtype=torch.float64)[:, None] + 0.5
    grid = torch.stack(
        [
            (back[k, 0] * x + back[k, 1] * y + back[k, 2]) * (2 / image.shape[2 - k]) - 1
            for k in (0, 1)
        ],
        dim=-1,
    )
    # the difference to gray is 0 outside
    return F.grid_sample((image - gray)[None], grid[None].float(), align_corners=False)[0] + gray


def turn_and_scale(
    degrees: float, factor: float, middle: tuple[float, float], target: tuple[float, float]
) -> Tensor:
    """Return the map (3, 3) float64 that turns and scales around a point and moves it to another.

    Args:
        degrees: Angle from +x towards +y, clockwise on screen.
        factor: Factor of all lengths.
        middle: Point (x, y) in the image.
        target: Place (x, y) of this point in the result.

    Example:
        >>> turn_and_scale(0, 2, (3, 1), (4, 4)).tolist()
        [[2.0, -0.0, -2.0], [0.0, 2.0, 2.0], [0.0, 0.0, 1.0]]
    """
    angle = math.radians(degrees)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    (x, y), (to_x, to_y) = middle, target
    return torch.tensor(
        [
            [cos, -sin, to_x - cos * x + sin * y],
            [sin, cos, to_y - sin * x - cos * y],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )


def paste_four(
    canvas: Tensor, images: Sequence[Tensor], x: int, y: int
) -> list[tuple[tuple[int, int], tuple[int, int, int, int]]]:
    """Paste four images that meet in a point, each with the corner nearest to its neighbors.

    Args:
        canvas: Image (C, H, W) that is written.
        images: Those at the upper left, upper right, lower left and lower right.
        x: Column at which they meet.
        y: Row at which they meet.

    Returns:
        Of each image the place (x, y) of its origin on the canvas, and left, top, right and bottom
        of what is shown of it.

    Example:
        >>> canvas = torch.zeros(1, 2, 2)
        >>> places = paste_four(canvas, [torch.full((1, 2, 2), float(k)) for k in range(4)], 1, 1)
        >>> canvas.tolist(), places[0]
        ([[[0.0, 1.0], [2.0, 3.0]]], ((-1, -1), (0, 0, 1, 1)))
    """
    places = []
    for place, image in enumerate(images):
        height, width = image.shape[1:]
        x0, y0 = (x - width if place % 2 == 0 else x), (y - height if place < 2 else y)
        left, right = max(x0, 0), min(x0 + width, canvas.shape[2])
        top, bottom = max(y0, 0), min(y0 + height, canvas.shape[1])
        canvas[:, top:bottom, left:right] = image[:, top - y0 : bottom - y0, left - x0 : right - x0]
        places.append(((x0, y0), (left, top, right, bottom)))
    return places


def chance(p: float) -> bool:
    """Return True with probability ``p``."""
    return float(torch.rand(())) < p


def between(low: float, high: float) -> float:
    """Return a number drawn uniformly between two bounds."""
    return low + (high - low) * float(torch.rand(()))
