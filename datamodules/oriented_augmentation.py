"""Augmentations under which the corners of oriented objects stay exact."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datamodules.object_augmentation import (
    Draw,
    ObjectTransform,
    between,
    chance,
    paste_four,
    turn_and_scale,
    warp_image,
)
from framework.data.datasets import Sample
from framework.detection.objects import PADDING
from framework.detection.rotated import rotated_iou
from framework.detection.tiles import VISIBLE
from framework.utilities.checks import check_at_least, check_interval, check_positive

GRAY = 0.5
"""Gray value of an image where there was nothing, as in the tiles of large pictures."""


class RandomFlip(ObjectTransform):
    """Mirrors an image at its middle.

    Args:
        horizontal: Probability that left and right are exchanged.
        vertical: Probability that top and bottom are exchanged.

    Raises:
        ValueError: a probability outside 0..1.

    Example:
        >>> quad = torch.tensor([[[1.0, 0], [3, 0], [3, 2], [1, 2]]])
        >>> sample = {"image": torch.arange(4.0).expand(3, 4, 4), "quads": quad}
        >>> flipped = RandomFlip(horizontal=1, vertical=0)(sample, draw=lambda: sample)
        >>> flipped["image"][0, 0], flipped["quads"].tolist()
        (tensor([3., 2., 1., 0.]), [[[3.0, 0.0], [3.0, 2.0], [1.0, 2.0], [1.0, 0.0]]])
    """

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.5) -> None:
        check_interval("[0, 1]", horizontal=horizontal, vertical=vertical)
        self.horizontal = horizontal
        self.vertical = vertical

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the flipped sample."""
        image = sample["image"]
        axes = [axis for axis, p in ((2, self.horizontal), (1, self.vertical)) if chance(p)]
        matrix = torch.eye(3, dtype=torch.float64)
        for axis in axes:
            matrix[2 - axis] *= -1
            matrix[2 - axis, 2] = image.shape[axis]
        return {**sample, "image": image.flip(axes), "quads": _mapped(sample["quads"], matrix)}


class RandomQuarterTurn(ObjectTransform):
    """Turns a square image by 0, 90, 180 or 270 degrees, each as likely.

    Raises:
        ValueError: an image that is not square (when it is turned).
    """

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the turned sample."""
        image = sample["image"]
        height, width = image.shape[1:]
        if height != width:
            raise ValueError(f"RandomQuarterTurn needs square images, got {height} x {width}.")
        turns = int(torch.randint(4, ()))
        once = torch.tensor([[0, 1, 0], [-1, 0, width], [0, 0, 1]], dtype=torch.float64)
        matrix = torch.linalg.matrix_power(once, turns)
        return {
            **sample,
            "image": image.rot90(turns, (1, 2)),
            "quads": _mapped(sample["quads"], matrix),
        }


class RandomAffine(ObjectTransform):
    """Turns, scales and shifts an image around its middle, by bilinear interpolation.

    Objects of which the image then shows 0.7 or less are left out; corners of the others may lie
    outside.

    Args:
        degrees: Largest angle to either side.
        scale: Range of the factor, whose logarithm is uniform.
        translate: Largest shift to either side, as a share of width and height.
        p: Probability that the image is changed.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        degrees: float = 180.0,
        scale: tuple[float, float] = (1.0, 1.0),
        translate: float = 0.0,
        p: float = 0.5,
    ) -> None:
        check_interval("[0, 1]", p=p)
        check_at_least(0, degrees=degrees, translate=translate)
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be a least and a largest factor, got {scale}.")
        self.degrees = degrees
        self.scale = scale
        self.translate = translate
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample under a random affine map."""
        if not chance(self.p):
            return sample
        height, width = sample["image"].shape[1:]
        degrees = between(-self.degrees, self.degrees)
        factor = math.exp(between(math.log(self.scale[0]), math.log(self.scale[1])))
        shift_x = between(-self.translate, self.translate) * width
        shift_y = between(-self.translate, self.translate) * height
        x, y = width / 2, height / 2
        return warp(sample, turn_and_scale(degrees, factor, (x, y), (x + shift_x, y + shift_y)))


class RandomTranslation(ObjectTransform):
    """Shifts an image so that no object is cut; one without objects stays.

    Args:
        p: Probability of a shift; 0.3 in the authors' code of GGHL (arXiv:2109.12848).

    Raises:
        ValueError: a probability outside 0..1.
    """

    def __init__(self, p: float = 0.3) -> None:
        check_interval("[0, 1]", p=p)
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the shifted sample."""
        if not chance(self.p) or not len(sample["quads"]):
            return sample
        left, top, right, bottom = _margins(sample)
        matrix = torch.eye(3, dtype=torch.float64)
        # whole pixels need no interpolation
        matrix[0, 2] = torch.randint(math.ceil(-left), math.floor(right) + 1, ())
        matrix[1, 2] = torch.randint(math.ceil(-top), math.floor(bottom) + 1, ())
        return warp(sample, matrix)


class RandomCrop(ObjectTransform):
    """Cuts margins off, none of them through an object, and enlarges the rest to the old size.

    The rest keeps its shape and stands in the middle; an image without objects stays as it is.

    Args:
        p: Probability of a crop; 0.3 in the authors' code of GGHL (arXiv:2109.12848).

    Raises:
        ValueError: a probability outside 0..1.
    """

    def __init__(self, p: float = 0.3) -> None:
        check_interval("[0, 1]", p=p)
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the cropped sample."""
        if not chance(self.p) or not len(sample["quads"]):
            return sample
        image = sample["image"]
        height, width = image.shape[1:]
        left, top, right, bottom = (int(between(0, margin)) for margin in _margins(sample))
        rest = image[:, top : height - bottom, left : width - right]
        factor = min(width / rest.shape[2], height / rest.shape[1])
        shift_x = (width - factor * rest.shape[2]) / 2
        shift_y = (height - factor * rest.shape[1]) / 2
        matrix = torch.tensor(
            [[factor, 0, shift_x], [0, factor, shift_y], [0, 0, 1]], dtype=torch.float64
        )
        quads = sample["quads"] - sample["quads"].new_tensor([left, top])
        return warp({**sample, "image": rest, "quads": quads}, matrix, (height, width))


class Mosaic(ObjectTransform):
    """Shows parts of four images that meet at a random place.

    The image at hand is the upper left one, and the others are drawn. Each touches the meeting
    point with the corner that is nearest to its neighbors, at its own scale. It is the mosaic of
    YOLOv4 (Bochkovskiy et al. 2020, arXiv:2004.10934) as YOLOv5 crops it back to the size of an
    image. Objects of which 0.7 or less are shown are left out.

    Args:
        p: Probability of a mosaic.

    Raises:
        ValueError: a probability outside 0..1, or images of different sizes (when they are joined).
    """

    mixes_samples = True

    def __init__(self, p: float = 1.0) -> None:
        check_interval("[0, 1]", p=p)
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample joined with three others."""
        if not chance(self.p):
            return sample
        four = [sample, draw(), draw(), draw()]
        height, width = sample["image"].shape[1:]
        if any(one["image"].shape != sample["image"].shape for one in four):
            raise ValueError("Mosaic needs images of one size.")
        x, y = int(torch.randint(width + 1, ())), int(torch.randint(height + 1, ()))
        image = torch.empty_like(sample["image"])
        parts = []
        places = paste_four(image, [one["image"] for one in four], x, y)
        for one, (origin, window) in zip(four, places, strict=True):
            moved = {**one, "quads": one["quads"] + one["quads"].new_tensor(origin)}
            parts.append(_keep(moved, _shown(moved["quads"], *window)))
        return {**_joined(sample, parts), "image": image}


class Mixup(ObjectTransform):
    """Lays another image over an image and shows the objects of both.

    The image becomes λ x + (1 - λ) x', λ ~ Beta(α, α), and ``object_weight`` of an object is the
    share of the image it comes from. Mixup is that of Zhang et al. 2018, arXiv:1710.09412.

    Args:
        alpha: Parameter α of the Beta distribution, positive.
        p: Probability that images are mixed; 0.7 is what the authors' code of GGHL
            (arXiv:2109.12848) does, as it compares the other way round with 0.3.

    Raises:
        ValueError: an argument out of its range, or images of two sizes (when they are mixed).

    Example:
        >>> def gray(value):
        ...     objects = {"quads": torch.zeros(1, 4, 2), "object_weight": torch.ones(1)}
        ...     return {"image": torch.full((3, 2, 2), value), **objects}
        >>> mixed = Mixup(p=1.0)(gray(1.0), draw=lambda: gray(0.0))
        >>> bool(mixed["image"][0, 0, 0].isclose(mixed["object_weight"][0]))
        True
    """

    mixes_samples = True

    def __init__(self, alpha: float = 1.5, p: float = 0.7) -> None:
        check_interval("[0, 1]", p=p)
        check_positive(alpha=alpha)
        self.share = torch.distributions.Beta(alpha, alpha)
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample mixed with another one."""
        if not chance(self.p):
            return sample
        other = draw()
        if other["image"].shape != sample["image"].shape:
            raise ValueError("Mixup needs images of one size.")
        share = float(self.share.sample())
        parts = [
            {**one, "object_weight": one["object_weight"] * weight}
            for one, weight in ((sample, share), (other, 1 - share))
        ]
        image = torch.lerp(other["image"], sample["image"], share)
        return {**_joined(sample, parts), "image": image}


def warp(sample: Sample, matrix: Tensor, size: tuple[int, int] | None = None) -> Sample:
    """Return a sample under an affine map of its pixels, gray where nothing was.

    Objects of which 0.7 or less are shown are left out.

    Args:
        sample: Sample with ``image`` (3, H, W) float32 and the fields of its objects.
        matrix: Map (3, 3) float64 from (x, y, 1) in the image to (x, y, 1) in the result.
        size: Size (H, W) of the result; default that of the image.
    """
    image = sample["image"]
    height, width = size or image.shape[1:]
    picture = warp_image(image, matrix, (height, width), GRAY)
    moved = {**sample, "image": picture, "quads": _mapped(sample["quads"], matrix)}
    return _keep(moved, _shown(moved["quads"], 0, 0, width, height))


def _mapped(quads: Tensor, matrix: Tensor) -> Tensor:
    """Return corners under an affine map, still clockwise and beginning with the same one."""
    mapped = (quads.double() @ matrix[:2, :2].T + matrix[:2, 2]).float()
    return mapped if torch.linalg.det(matrix[:2, :2]) > 0 else mapped[:, [0, 3, 2, 1]]


def _shown(quads: Tensor, left: float, top: float, right: float, bottom: float) -> Tensor:
    """Return which objects lie in a rectangle by more than 0.7 of their area."""
    if right <= left or bottom <= top:
        return torch.zeros(len(quads), dtype=torch.bool)
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    window = torch.tensor([corners], dtype=torch.float64)
    return rotated_iou(quads.double(), window, mode="iof")[:, 0] > VISIBLE


def _keep(sample: Sample, objects: Tensor) -> Sample:
    return {name: value[objects] if name in PADDING else value for name, value in sample.items()}


def _joined(sample: Sample, parts: list[Sample]) -> Sample:
    objects = {
        name: torch.cat([part[name] for part in parts]) for name in PADDING if name in sample
    }
    return {**sample, **objects}


def _margins(sample: Sample) -> tuple[float, float, float, float]:
    """Return how far the image goes on to the left, top, right and bottom of all its objects."""
    height, width = sample["image"].shape[1:]
    low, high = sample["quads"].amin((0, 1)).tolist(), sample["quads"].amax((0, 1)).tolist()
    margins = (low[0], low[1], width - high[0], height - high[1])
    return tuple(max(margin, 0.0) for margin in margins)
