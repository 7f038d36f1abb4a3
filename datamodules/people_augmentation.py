"""Augmentations of images of people under which their boxes stay exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.letterbox import GRAY_LEVEL, resized
from datamodules.object_augmentation import (
    Draw,
    PeopleTransform,
    between,
    chance,
    paste_four,
    turn_and_scale,
    warp_image,
)
from framework.data.datasets import Sample
from framework.detection.body_parts.people import NAMES, People
from framework.utilities.checks import check_at_least, check_interval

GRAY = GRAY_LEVEL / 255
"""Gray value of an image where there was nothing."""
LETTERBOX = ("letterbox_offset", "letterbox_scale", "image_size")
"""Fields by which a sample returns to its original, which an augmented one does not."""
LEAST_SIDE, LEAST_SHARE, LARGEST_ASPECT = 2, 0.1, 20


class MosaicAffine(PeopleTransform):
    """Shows four images around a random place, or one, scaled and shifted at random.

    The canvas of a mosaic is twice as wide and high as an image, and gray. Its images meet in a
    point that is uniform in the middle half of the canvas, each with the corner that is nearest to
    its neighbors and without the gray borders of its letterbox. The middle of the canvas, or of a
    single image, is then scaled, turned and shifted into an image of the old size. It is the mosaic
    of YOLOv4 (Bochkovskiy et al. 2020, arXiv:2004.10934) as in YOLOv5.

    A body is the smallest box around its corners, clipped to what is shown; it is left out with its
    parts if a side is at most 2 pixels, its area at most 0.1 of what it was, or one side 20 times
    the other. A region to be ignored is left out only if a side is at most 2 pixels. A part whose
    center is not shown is no longer visible; all others keep their whole box, also beyond the
    border, since its center is the point that a body predicts.

    Args:
        mosaic: Probability of a mosaic.
        translate: Largest shift to either side, as a share of width and height.
        scale: Largest deviation of the factor from 1, in 0..1.
        degrees: Largest angle to either side.

    Raises:
        ValueError: An argument out of its range, or images that are not squares of one size (when
            they are joined).

    Example:
        >>> people = People.none(num_slots=1)
        >>> sample = {"image": torch.rand(3, 32, 32), **people.fields()}
        >>> MosaicAffine()(sample, draw=lambda: sample)["image"].shape
        torch.Size([3, 32, 32])
    """

    def __init__(
        self,
        mosaic: float = 1.0,
        translate: float = 0.1,
        scale: float = 0.5,
        degrees: float = 0.0,
    ) -> None:
        check_interval("[0, 1]", mosaic=mosaic)
        check_interval("[0, 1)", scale=scale)
        check_at_least(0, translate=translate, degrees=degrees)
        self.mosaic = mosaic
        self.translate = translate
        self.scale = scale
        self.degrees = degrees
        self.mixes_samples = mosaic > 0

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample under a random affine map, joined with three others or alone."""
        height, width = sample["image"].shape[1:]
        if chance(self.mosaic):
            four = [sample, draw(), draw(), draw()]
            if height != width or any(one["image"].shape != sample["image"].shape for one in four):
                raise ValueError("MosaicAffine needs square images of one size.")
            middle = torch.randint(math.ceil(height / 2), 3 * height // 2 + 1, (2,))
            sample = join_four(four, *middle.tolist())
        else:
            sample = _shown(sample, (0, 0, width, height))
        canvas_height, canvas_width = sample["image"].shape[1:]
        degrees = between(-self.degrees, self.degrees)
        factor = between(1 - self.scale, 1 + self.scale)
        x, y = ((0.5 + between(-self.translate, self.translate)) * s for s in (width, height))
        center = (canvas_width / 2, canvas_height / 2)
        matrix = turn_and_scale(degrees, factor, center, (x, y))
        return _ordered(warp_people(sample, matrix, (height, width)), self.slot_names)


class PeopleFlip(PeopleTransform):
    """Mirrors left and right of an image, and of the parts of its people.

    Slots whose classes are called ``left_`` and ``right_`` of the same part exchange their parts.
    Slots of one class have theirs ordered anew, the visible ones first, from left to right. It
    belongs after ``MosaicAffine``, which would show the gray borders of flipped letterboxes.

    Args:
        p: Probability of a flip. The authors of BPJDet (arXiv:2304.10765) use none.

    Raises:
        ValueError: A probability outside 0..1.

    Example:
        >>> flip = PeopleFlip(p=1)
        >>> flip.use_slots(["left_hand", "right_hand"])
        >>> parts = torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]]])
        >>> people = People(
        ...     bodies=torch.tensor([[0.0, 0, 6, 8]]),
        ...     parts=parts,
        ...     visible=torch.tensor([[True, False]]),
        ...     part_ignored=torch.zeros(1, 2).bool(),
        ...     visible_ratio=torch.ones(1),
        ...     ignored=torch.zeros(1).bool(),
        ... )
        >>> sample = {"image": torch.zeros(3, 8, 8), **people.fields()}
        >>> flip(sample, draw=lambda: sample)["parts"].tolist()
        [[[0.0, 0.0, 0.0, 0.0], [5.0, 2.0, 7.0, 4.0]]]
    """

    def __init__(self, p: float = 0.5) -> None:
        check_interval("[0, 1]", p=p)
        self.p = p

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        """Return the sample, mirrored or not."""
        result = {name: value for name, value in sample.items() if name not in LETTERBOX}
        if not chance(self.p):
            return result
        image = sample["image"]
        people = People.of(sample)
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[0, 0], matrix[0, 2] = -1, image.shape[2]
        places = _mirrored_slots(self.slot_names, people.parts.shape[1])
        visible, part_ignored = people.visible[:, places], people.part_ignored[:, places]
        moved = {
            "bodies": _mapped(people.bodies, matrix),
            "parts": _present(_mapped(people.parts, matrix)[:, places], visible | part_ignored),
            "visible": visible,
            "part_ignored": part_ignored,
        }
        return _ordered({**result, **moved, "image": image.flip(2)}, self.slot_names)


def join_four(samples: Sequence[Sample], x: int, y: int) -> Sample:
    """Return a canvas twice as wide and high as an image on which four images meet.

    Args:
        samples: Those at the upper left, upper right, lower left and lower right; the result has
            the other fields of the first.
        x: Column at which they meet.
        y: Row at which they meet.
    """
    size = samples[0]["image"].shape[1]
    canvas = torch.full((3, 2 * size, 2 * size), GRAY)
    contents = [_content(sample) for sample in samples]
    images = [
        sample["image"][:, top : top + height, left : left + width]
        for sample, (left, top, width, height) in zip(samples, contents, strict=True)
    ]
    joined = []
    places = paste_four(canvas, images, x, y)
    for sample, (left, top, *_), ((x0, y0), window) in zip(samples, contents, places, strict=True):
        shift = torch.tensor([x0 - left, y0 - top] * 2, dtype=torch.float32)
        there = sample["visible"] | sample["part_ignored"]
        moved = {
            **sample,
            "bodies": sample["bodies"] + shift,
            "parts": _present(sample["parts"] + shift, there),
        }
        joined.append(_shown(moved, window))
    fields = {name: torch.cat([one[name] for one in joined]) for name in NAMES}
    return {**joined[0], **fields, "image": canvas}


def warp_people(sample: Sample, matrix: Tensor, size: tuple[int, int]) -> Sample:
    """Return a sample under an affine map, without the people of whom too little is left.

    See ``MosaicAffine`` for which those are, and what becomes of boxes at the border.

    Args:
        sample: Sample with ``image`` and the fields of its people, whose bodies lie inside.
        matrix: Map (3, 3) float64 from (x, y, 1) in the image to (x, y, 1) in the result.
        size: Size (H, W) of the result.
    """
    there = sample["visible"] | sample["part_ignored"]
    whole = _sides(sample["bodies"]).prod(-1) * float(torch.linalg.det(matrix[:2, :2]).abs())
    moved = {
        **sample,
        "image": warp_image(sample["image"], matrix, size, GRAY),
        "bodies": _mapped(sample["bodies"], matrix),
        "parts": _present(_mapped(sample["parts"], matrix), there),
    }
    moved = _shown(moved, (0, 0, size[1], size[0]))
    sides = _sides(moved["bodies"])
    large = (sides > LEAST_SIDE).all(-1)
    shown = sides.prod(-1) > LEAST_SHARE * whole
    compact = sides.amax(-1) < LARGEST_ASPECT * sides.amin(-1)
    kept = large & (shown & compact | moved["ignored"])
    return {name: value[kept] if name in NAMES else value for name, value in moved.items()}


def _shown(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """Return a sample with bodies clipped to a window, and without parts whose center is outside.

    It is no longer an image in a letterbox.
    """
    left, top, right, bottom = window
    low = torch.tensor([left, top] * 2, dtype=torch.float32)
    high = torch.tensor([right, bottom] * 2, dtype=torch.float32)
    center = (sample["parts"][..., :2] + sample["parts"][..., 2:]) / 2
    inside = ((center >= low[:2]) & (center < high[:2])).all(-1)
    visible, part_ignored = sample["visible"] & inside, sample["part_ignored"] & inside
    changed = {
        "bodies": sample["bodies"].clamp(low, high),
        "parts": _present(sample["parts"], visible | part_ignored),
        "visible": visible,
        "part_ignored": part_ignored,
    }
    return {**{name: v for name, v in sample.items() if name not in LETTERBOX}, **changed}


def _content(sample: Sample) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what an image shows inside its letterbox."""
    height, width = sample["image"].shape[1:]
    if "letterbox_offset" not in sample:
        return 0, 0, width, height
    left, top = (-int(offset) for offset in sample["letterbox_offset"].tolist())
    scale = float(sample["letterbox_scale"])
    return left, top, *resized(sample["image_size"].tolist(), scale)


def _mapped(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Return the smallest boxes (..., 4) around the corners of boxes under an affine map."""
    x, y = boxes[..., [0, 2, 2, 0]].double(), boxes[..., [1, 1, 3, 3]].double()
    u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    return torch.stack([u.amin(-1), v.amin(-1), u.amax(-1), v.amax(-1)], -1).float()


def _present(parts: Tensor, there: Tensor) -> Tensor:
    """Return boxes of parts, zeros where a part is absent."""
    return torch.where(there[..., None], parts, 0)


def _sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _mirrored_slots(names: Sequence[str], number: int) -> list[int]:
    """Return from which slot each one takes its part in a mirror."""
    places = {name: place for place, name in enumerate(names)}
    others = {"left": "right", "right": "left"}
    found = list(range(number))
    for name, place in places.items():
        side, _, part = name.partition("_")
        found[place] = places.get(f"{others.get(side, side)}_{part}", place)
    return found


def _ordered(sample: Sample, names: Sequence[str]) -> Sample:
    """Return a sample whose slots of one class have their parts from left to right."""
    if len(set(names)) == len(names):
        return sample
    classes = [names.index(name) for name in names]
    return {**sample, **People.of(sample).sorted_slots(classes).fields()}
