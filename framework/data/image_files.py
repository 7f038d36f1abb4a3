"""Image files, as large as satellites take them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def find_images(folder: str | Path) -> list[Path]:
    """Return all image files below a folder, in the order of their paths.

    Raises:
        FileNotFoundError: no such folder, or no image below it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    paths = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(IMG_EXTENSIONS)
    )
    if not paths:
        raise FileNotFoundError(f"{folder} holds no image, nor does a folder in it.")
    return [Path(path) for path in paths]


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) without decoding the image.

    Raises:
        ValueError: by name, the file is no image, or holds gray values of more than 8 bits.
    """
    with _opened(path) as image:
        return image.size


def decode_image(path: str | Path) -> Image.Image:
    """Return the decoded image in RGB, of any number of pixels.

    Raises:
        ValueError: by name, the file cannot be decoded, or holds gray values of more than 8 bits,
            whose range it does not say.
    """
    with _opened(path) as image:
        return image.convert("RGB")


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # an aerial picture has more pixels than an attack on memory
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # conversion to RGB would make nearly all white
                raise ValueError(f"gray values of mode {image.mode} must be scaled to 8 bits first")
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
