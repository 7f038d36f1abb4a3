"""Aerial-like pictures with oriented objects, drawn from a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from datamodules.drawing import SUPERSAMPLING, cluttered_ground, enlarged, fill_polygon
from framework.detection.objects import Objects

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw as Pen

Points = tuple[tuple[float, float], ...]

RECTANGLE: Points = ((-1, -1), (1, -1), (1, 1), (-1, 1))
CONTRAST = 40.0
"""Least difference, in gray levels of 0 to 255, of an object that is not difficult."""
FAINT = (10.0, 25.0)
"""Range of that difference for a difficult object."""
SHARE_OF_DIFFICULT = 0.05


class Shape(NamedTuple):
    """Look of an object, in units of half its long and half its short side.

    Its front looks along +x, and its quad and outline lie in the square from -1 to 1.
    """

    aspect: tuple[float, float]
    quad: Points
    parts: tuple[Points, ...]
    details: tuple[Points, ...]
    """Drawn over the parts, darker."""


SHAPES = {
    "ship": Shape(
        aspect=(3, 6),
        quad=RECTANGLE,
        parts=(((-1, -0.8), (-0.9, -1), (0.5, -1), (1, 0), (0.5, 1), (-0.9, 1), (-1, 0.8)),),
        details=(((-0.7, -0.55), (-0.2, -0.55), (-0.2, 0.55), (-0.7, 0.55)),),
    ),
    # a tail plane of half the span: the quad is a trapezoid
    "plane": Shape(
        aspect=(1.2, 2),
        quad=((-1, -0.5), (1, -1), (1, 1), (-1, 0.5)),
        parts=(
            ((-1, -0.2), (0.9, -0.2), (1, 0), (0.9, 0.2), (-1, 0.2)),
            ((-1, -0.5), (-0.7, -0.4), (-0.4, 0), (-0.7, 0.4), (-1, 0.5)),
            ((0.5, -0.9), (1, -1), (0.9, 0), (1, 1), (0.5, 0.9), (-0.1, 0)),
        ),
        details=(((0.5, -0.1), (0.8, -0.1), (0.8, 0.1), (0.5, 0.1)),),
    ),
    "vehicle": Shape(
        aspect=(1.5, 2.5),
        quad=RECTANGLE,
        parts=(
            (
                (-1, -0.7),
                (-0.85, -1),
                (0.85, -1),
                (1, -0.7),
                (1, 0.7),
                (0.85, 1),
                (-0.85, 1),
                (-1, 0.7),
            ),
        ),
        details=(((0.2, -0.75), (0.55, -0.75), (0.55, 0.75), (0.2, 0.75)),),
    ),
}
CLASS_NAMES = tuple(SHAPES)


class _Placed(NamedTuple):
    label: int
    center: np.ndarray
    axes: np.ndarray
    """(2, 2): half the long and half the short side as vectors."""

    def corners(self, points: Points) -> np.ndarray:
        """Return points of the shape in pixels of the picture."""
        return self.center + np.asarray(points, dtype=np.float64) @ self.axes


def render_scene(
    seed: int,
    width: int,
    height: int,
    objects: tuple[int, int] = (2, 6),
    long_side: tuple[float, float] = (22.0, 70.0),
) -> tuple[np.ndarray, Objects]:
    """Draw ships, planes and vehicles on a cloudy ground.

    The ground is smooth clutter with noise; three pictures in ten also show thin lines and
    triangles that are no objects. An object has any direction, lies inside the picture, and its
    upright box reaches at most 2 pixels into that of another. Its color does not depend on its
    class and differs by at least 40 gray levels from the ground below it, except one in twenty: it
    differs by 10 to 25 and is difficult. Where a place is not found, there are fewer objects.

    Args:
        seed: Seed that alone determines the picture.
        width: Width in pixels.
        height: Height in pixels.
        objects: Least and largest number of objects.
        long_side: Range of the objects' long side in pixels, whose logarithm is uniform.

    Returns:
        The picture (height, width, 3) uint8 and its objects, their first corner at the front or
        the rear left.

    Example:
        >>> picture, found = render_scene(0, 160, 120)
        >>> picture.shape, 2 <= len(found) <= 6
        ((120, 160, 3), True)
    """
    from PIL import ImageDraw

    rng = np.random.Generator(np.random.PCG64(seed))
    ground = cluttered_ground(rng, width, height)
    picture = enlarged(ground)
    pen = ImageDraw.Draw(picture)
    if rng.random() < 0.3:
        _draw_distractors(pen, rng, width, height)
    placed = _place(rng, width, height, int(rng.integers(*objects, endpoint=True)), long_side)
    difficult = rng.random(len(placed)) < SHARE_OF_DIFFICULT
    for item, faint in zip(placed, difficult.tolist(), strict=True):
        color = _color(rng, _gray_below(ground, item.corners(RECTANGLE)), faint)
        shape = SHAPES[CLASS_NAMES[item.label]]
        for points in shape.parts:
            fill_polygon(pen, item.corners(points), color)
        for points in shape.details:
            fill_polygon(pen, item.corners(points), 0.6 * color)
    quads = [item.corners(SHAPES[CLASS_NAMES[item.label]].quad) for item in placed]
    return np.array(picture.reduce(SUPERSAMPLING)), Objects(
        torch.from_numpy(np.array(quads, dtype=np.float32).reshape(-1, 4, 2)),
        torch.tensor([item.label for item in placed], dtype=torch.int64),
        torch.from_numpy(difficult).byte(),
    )


def _place(
    rng: np.random.Generator,
    width: int,
    height: int,
    number: int,
    long_side: tuple[float, float],
) -> list[_Placed]:
    placed: list[_Placed] = []
    boxes: list[np.ndarray] = []
    for _ in range(number):
        for _ in range(20):
            item = _random_object(rng, width, height, long_side)
            corners = item.corners(RECTANGLE)
            box = np.concatenate([corners.min(0), corners.max(0)])
            inside = box.min() >= 0 and box[2] <= width and box[3] <= height
            if inside and not any(_overlap(box, other) > 2 for other in boxes):
                placed.append(item)
                boxes.append(box)
                break
    return placed


def _random_object(
    rng: np.random.Generator, width: int, height: int, long_side: tuple[float, float]
) -> _Placed:
    label = int(rng.integers(len(CLASS_NAMES)))
    length = np.exp(rng.uniform(*np.log(long_side)))
    breadth = length / rng.uniform(*SHAPES[CLASS_NAMES[label]].aspect)
    angle = rng.uniform(0, 2 * np.pi)
    forward = np.array([np.cos(angle), np.sin(angle)])
    sideways = np.array([-np.sin(angle), np.cos(angle)])
    center = rng.uniform((0, 0), (width, height))
    return _Placed(label, center, np.stack([length / 2 * forward, breadth / 2 * sideways]))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return how far two upright boxes reach into one another, along the shorter way."""
    return float((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).min())


def _gray_below(ground: np.ndarray, corners: np.ndarray) -> float:
    left, top = np.floor(corners.min(0)).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int)
    return _gray(ground[top:bottom, left:right].mean((0, 1)))


def _gray(color: np.ndarray) -> float:
    return float(color @ np.array([0.299, 0.587, 0.114]))


def _color(rng: np.random.Generator, ground: float, faint: bool) -> np.ndarray:
    low, high = FAINT if faint else (CONTRAST, 256.0)
    while True:  # at any ground more than one color in twenty fits
        color = rng.uniform(0, 255, 3)
        if low <= abs(_gray(color) - ground) < high:
            return color


def _draw_distractors(pen: Pen, rng: np.random.Generator, width: int, height: int) -> None:
    for _ in range(int(rng.integers(1, 4))):
        start, end = rng.uniform((0, 0), (width, height), (2, 2))
        color = rng.uniform(0, 255, 3)
        fill_polygon(pen, np.stack([start, end, end + 1, start + 1]), color)
    for _ in range(int(rng.integers(0, 3))):
        corner = rng.uniform((0, 0), (width, height))
        fill_polygon(pen, corner + rng.uniform(-12, 12, (3, 2)), rng.uniform(0, 255, 3))
