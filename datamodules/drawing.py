"""What drawn scenes share: the ground, and polygons on a picture that is larger than the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw as Pen

SUPERSAMPLING = 2
"""Width and height of the picture that is drawn on, in those of the result."""


def cluttered_ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return smooth random colors with noise, (height, width, 3) uint8."""
    from PIL import Image

    coarse = Image.fromarray(rng.integers(0, 256, (10, 10, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    return np.clip(0.5 * smooth + 40 + 12 * noise, 0, 255).astype(np.uint8)


def enlarged(ground: np.ndarray) -> Picture:
    """Return a ground as the picture that is drawn on."""
    from PIL import Image

    height, width = ground.shape[:2]
    size = SUPERSAMPLING * width, SUPERSAMPLING * height
    return Image.fromarray(ground).resize(size, Image.Resampling.NEAREST)


def fill_polygon(pen: Pen, corners: np.ndarray, color: np.ndarray | int) -> None:
    """Fill a polygon on the enlarged picture.

    Args:
        pen: Pen of the enlarged picture.
        corners: Corners (n, 2) in pixels of the result.
        color: Color (3,) in 0 to 255, or the value of a picture with one channel.
    """
    # a pixel is filled if its center lies inside
    points = (SUPERSAMPLING * corners - 0.5).ravel().tolist()
    pen.polygon(points, fill=color if isinstance(color, int) else tuple(int(v) for v in color))


def capsule(start: object, end: object, radius: float) -> np.ndarray:
    """Return the outline of a thick line with round ends."""
    a, b = (np.asarray(point, dtype=np.float64) for point in (start, end))
    direction = np.arctan2(*(b - a)[::-1])
    turn = direction + np.linspace(-np.pi / 2, np.pi / 2, 7)
    cap = radius * np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.concatenate([b + cap, a - cap])


def ellipse(center: object, width: float, height: float, upper_half: bool = False) -> np.ndarray:
    """Return the outline of an ellipse, given half its width and height."""
    first = np.pi if upper_half else 0.0
    turn = np.linspace(first, 2 * np.pi, 13 if upper_half else 25)
    outline = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
    return np.asarray(center, dtype=np.float64) + outline
