"""Picture files as large as satellites take them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def find_pictures(folder: Path) -> list[Path]:
    """Return all picture files below a folder, in the order of their paths.

    Raises:
        FileNotFoundError: no such folder, or no picture below it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    paths = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    )
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image, nor does a folder in it.")
    return paths


def picture_size(path: Path) -> tuple[int, int]:
    """Return (width, height) without decoding the picture.

    Raises:
        ValueError: the file is no picture, by name.
    """
    with _opened(path) as picture:
        return picture.size


def read_picture(path: Path) -> Image.Image:
    """Return the decoded picture in RGB.

    Raises:
        ValueError: the file cannot be decoded, by name.
    """
    with _opened(path) as picture:
        return picture.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # an aerial picture has more pixels than an attack on memory
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
