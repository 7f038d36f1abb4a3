"""The size and the channels of images on files, where nobody says them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from statistics import median_low

from framework.data.image_files import ImagePath, image_header

LARGEST = 224
"""Most pixels of a side that is not asked for."""
LOOKED_AT = 64
"""Files whose headers are read."""
GRAY = ("1", "L", "LA", "La", "I", "F")


def usual_shape(paths: Sequence[ImagePath]) -> tuple[int, int, int]:
    """Return the shape (C, S, S) that images on files are brought to.

    C is 1 if all files that are looked at are gray, else 3; S is the median of their shorter sides,
    at most 224. About 64 files are looked at, and of each the header only; one that is no image
    counts for nothing.
    """
    modes, sides = _headers(paths)
    gray = modes and all(mode.partition(";")[0] in GRAY for mode in modes)
    size = min(median_low(sides), LARGEST) if sides else LARGEST
    return 1 if gray else 3, size, size


def _headers(paths: Sequence[ImagePath]) -> tuple[list[str], list[int]]:
    modes, sides = [], []
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        with suppress(ValueError):  # named when it is decoded
            mode, size = image_header(path)
            modes.append(mode)
            sides.append(min(size))
    return modes, sides
