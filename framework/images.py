"""Image files, as large as satellites take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) without decoding the image.

    Raises:
        ValueError: by name, the file is no image, or holds grey values of more than 8 bits.
    """
    with _opened(path) as image:
        return image.size


def decode_image(path: str | Path) -> Image.Image:
    """Return the decoded image in RGB, of any number of pixels.

    Raises:
        ValueError: by name, the file cannot be decoded, or holds grey values of more than 8 bits,
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
                raise ValueError(f"grey values of mode {image.mode} must be scaled to 8 bits first")
            yield image
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
