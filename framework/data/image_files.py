"""Image files: decoded in one way everywhere, and checked before they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from framework.data.encoded_image import EncodedImage
from framework.data.tar_files import Member, TarChangedError
from framework.utilities.error_reason import reason_of
from framework.utilities.limits import (
    MAX_GZIP,
    FileTooLargeError,
    RegularFile,
    check_size,
    max_bytes,
    open_file,
)

if TYPE_CHECKING:
    from PIL import Image

_CHUNK = 256
_TAIL = 1024
_MOST_THREADS = 16
_LARGE = Lock()
"""Held while an image is checked that takes more than a thread's share of the limit."""
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""Last bytes of whole files, by format."""
ImagePath: TypeAlias = str | Path | Member | EncodedImage
"""Where an image is: a file, a member of a tar file, or content that was read."""
_Path = TypeVar("_Path", bound=Path | Member)
FORMATS = ("JPEG", "JPEG2000", "PNG", "GIF", "WEBP", "PPM", "BMP", "TIFF")
"""Formats that are read, whatever a file's ending is; others may start programs (EPS)."""


def image_size(path: ImagePath) -> tuple[int, int]:
    """Return (width, height) of the upright image without decoding it.

    Raises:
        ValueError: by name, the file is no image.
    """
    return image_header(path)[1]


def image_header(path: ImagePath) -> tuple[str, tuple[int, int]]:
    """Return PIL's mode, and what ``image_size`` does.

    Raises:
        ValueError: by name, the file is no image.
    """
    with _opened(path) as image:
        width, height = image.size
        # a turned TIFF says the size that it will have
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return image.mode, (height, width) if turned else (width, height)


def image_info(path: str | Path) -> dict[Any, Any]:
    """Return the texts and numbers beside an image, as PIL names them.

    Raises:
        ValueError: by name, the file is no image.
    """
    with _opened(path) as image:
        return image.info


def decode_image(picture: ImagePath | Image.Image) -> Image.Image:
    """Return the image upright, of 8 bits in RGB.

    Raises:
        ValueError: see ``open_image``.
    """
    from PIL import Image

    image = open_image(picture)
    if image.mode == "F":
        image = Image.fromarray((np.asarray(image) * 255).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(picture: ImagePath | Image.Image) -> Image.Image:
    """Return the decoded image, turned upright as its EXIF data say.

    Its mode is F, in [0, 1], where gray values have more than 8 bits: those of 16 bits are divided
    by 65,535, and floats are taken as they are. Else it is one of 8 bits, such as RGB, L or CMYK.

    Args:
        picture: Path of a file, member of a tar file, or an image of PIL.

    Raises:
        ValueError: by name, the file cannot be decoded, would take more memory than the limit, or
            is of none of ``FORMATS``; or its gray values have 32 bits or are floats outside
            [0, 1], whose range it does not say.
    """
    from PIL import ImageOps

    with _opened(picture) as image:
        is_16_bit = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
        # sought before the image is decoded, as `image_size` does
        upright = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
        if upright.mode.startswith(("I", "F")):
            return _scaled(upright, is_16_bit)
        if upright.mode == "P" and "transparency" in upright.info:
            return upright.convert("RGBA")  # PIL warns of any other way
        upright.load()
        return upright


def _scaled(image: Image.Image, is_16_bit: bool) -> Image.Image:
    from PIL import Image

    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"gray values that are floats must lie in [0, 1], and lie in [{low:g}, {high:g}]"
            )
    elif is_16_bit:
        values /= 65535
    else:
        raise ValueError("gray values must have 8 or 16 bits, and have 32")
    return Image.fromarray(values)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8: 1 is upright, from 5 on the sides are swapped."""
    from PIL.ExifTags import Base

    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return 1  # PIL would decode all of the image to look behind it
    try:
        found = image.getexif().get(Base.Orientation, 1)
    except Exception:  # of many kinds, by which byte is damaged; the image itself may be whole
        return 1
    return found if found in range(1, 9) else 1


@contextmanager
def _opened(picture: ImagePath | Image.Image) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    name = "The image" if isinstance(picture, Image.Image) else picture
    try:
        if isinstance(picture, Image.Image):
            yield picture
        else:
            with _any_size(), _file(picture) as file, Image.open(file, "r", FORMATS) as image:
                width, height = image.size
                check_size(str(picture), _memory(image), f"{width:,} x {height:,} pixels")
                # a pixel has one bit at least
                if image.format == "PNG" and width * height > 8 * MAX_GZIP * file.size:
                    raise ValueError(f"{width:,} x {height:,} pixels are not stored")
                yield image
    except (FileTooLargeError, TarChangedError):
        raise
    except UnidentifiedImageError:  # which names an object of Python
        reason = "it begins as no image of a known format"
        raise ValueError(f"{name} cannot be decoded as an image: {reason}.") from None
    except Exception as error:  # of many kinds, by which byte is damaged
        raise ValueError(f"{name} cannot be decoded as an image: {reason_of(error)}.") from None


def _file(picture: ImagePath) -> RegularFile:
    return picture.open() if isinstance(picture, (Member, EncodedImage)) else open_file(picture)


def _memory(image: Image.Image) -> int:
    """Return how much ``decode_image`` takes at most, the image before it is turned included."""
    pixels = image.width * image.height
    if image.mode.startswith(("I", "F")) or image.format in ("WEBP", "JPEG2000"):
        return 16 * pixels
    # PIL has 4 bytes for RGB; a progressive JPEG is read as a whole before it is decoded
    coefficients = 6 if image.info.get("progressive") else 0
    plain = image.mode == "RGB" and image.format != "TIFF" and "exif" not in image.info
    return ((4 if plain else 8) + coefficients) * pixels


@contextmanager
def _any_size() -> Iterator[None]:
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # what is decoded is limited in bytes
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def intact_images(paths: Sequence[_Path], folder: str | Path, strict: bool = True) -> list[_Path]:
    """Return the image files that can be decoded, all of them if ``strict``.

    A strict check looks at the head of every file, and at its end where the format has a mark for
    it; otherwise every image is decoded once, which takes about as long as an epoch's loading.

    Args:
        paths: Image files, or members of tar files.
        folder: Folder of the files, for messages.
        strict: Whether damaged files raise; otherwise they are left out, and counted in a warning.

    Raises:
        ValueError: the damaged files, all of them by name, if ``strict``.
    """
    from lightning.pytorch.utilities import rank_zero_warn  # decoding alone needs no Lightning
    from rich.progress import track

    from framework.data.facts import listed

    chunks = [paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK)]
    threads = min(2 * (os.cpu_count() or 1), _MOST_THREADS, len(chunks))
    faults: list[str | None] = []
    # the limit is lifted once for all threads, each of which would restore what another one set
    with _any_size(), ThreadPoolExecutor(max(threads, 1)) as pool:
        checked = pool.map(lambda chunk: [_fault(path, not strict) for path in chunk], chunks)
        label = f"Checking the images in {folder}"
        quick = len(chunks) < 20
        for found in track(checked, label, len(chunks), transient=True, disable=quick):
            faults += found
    damaged = {path: fault for path, fault in zip(paths, faults, strict=True) if fault is not None}
    if damaged:
        names = [os.path.relpath(path, folder) for path in damaged]
        faulty = f"{listed(names)}. The first: {next(iter(damaged.values()))}"
        number = f"{len(damaged):,} of the {len(paths):,} images in {folder}"
        if strict:
            raise ValueError(
                f"{number} cannot be decoded, strict: false leaves them out: {faulty}."
            )
        rank_zero_warn(f"{number} cannot be decoded and are left out: {faulty}.")
    return [path for path in paths if path not in damaged]


def _fault(path: Path | Member, decode: bool) -> str | None:
    """Return what is wrong with an image file, or None."""
    try:
        with _opened(path) as image:
            is_deep = image.mode.startswith(("I", "F"))
            if not (decode or image.mode in ("I", "F")) and _ends_whole(path, image.format):
                return None
            in_turn = _LARGE if _memory(image) > max_bytes() // _MOST_THREADS else nullcontext()
            if not is_deep:
                image.draft("L", (1, 1))  # a JPEG is decoded at an eighth of its size
                with in_turn:
                    image.load()
        if is_deep:
            with in_turn:
                open_image(path)
    except ValueError as error:
        return str(error).removesuffix(".")
    return None


def _ends_whole(path: Path | Member, image_format: str | None) -> bool:
    ending = _ENDINGS.get(image_format or "")
    if ending is None:
        return False
    with _file(path) as file:
        file.seek(-min(_TAIL, file.size), os.SEEK_END)
        return ending in file.read()
