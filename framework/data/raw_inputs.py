"""Images and rows of numbers as a person has them, as fields of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.data.encoded_image import EncodedImage
from framework.data.image_files import open_image
from framework.data.tar_files import Member
from framework.utilities.limits import check_size


def as_rows(rows: Any, size: int | None = None) -> Tensor:
    """Return rows of numbers, (N, D) of a tensor, an array or nested lists, as a tensor.

    Args:
        rows: N rows of D numbers.
        size: D, where it is known.

    Raises:
        ValueError: Anything else, or another D.

    Example:
        >>> as_rows([[1.0, 2.0], [3.0, 4.0]]).shape
        torch.Size([2, 2])
    """
    values = rows if isinstance(rows, Tensor) else torch.from_numpy(np.asarray(rows))
    if values.ndim != 2 or (size is not None and values.shape[1] != size):
        raise ValueError(
            f"Rows of numbers must have the shape (N, {size or 'D'}), got {tuple(values.shape)}."
        )
    return values


def as_images(
    images: Any,
    shape: Sequence[int] | None = None,
    resize: int | None = None,
    channels: int | None = None,
) -> Tensor:
    """Return images as float32 (N, C, H, W) in [0, 1].

    Args:
        images: Tensor or array (N, C, H, W), uint8 or floating-point in [0, 1]; or pictures, each
            the path of a file, a member of a tar file or a ``PIL.Image.Image``, one or a sequence
            of them.
        shape: (C, H, W) that pictures are brought to: they are resized to the smallest size of
            their shape that covers H and W, then the center is cropped. Default: RGB in their own
            size, which must be the same.
        resize: What the shorter side is resized to instead, at least H and W.
        channels: C of a tensor or array, where it is known and ``shape`` is not.

    Raises:
        ValueError: Another shape or type of numbers, or a file that cannot be decoded, by name.

    Example:
        >>> as_images(np.full((2, 1, 4, 4), 255, dtype=np.uint8)).amax()
        tensor(1.)
    """
    if isinstance(images, (Tensor, np.ndarray)):
        values = torch.as_tensor(images)
        if values.ndim != 4 or not (values.dtype == torch.uint8 or values.is_floating_point()):
            raise ValueError(
                "Images must be (N, C, H, W), uint8 or floating-point in [0, 1], got "
                f"{tuple(values.shape)} of {values.dtype}."
            )
        if shape is not None and tuple(values.shape[1:]) != tuple(shape):
            wanted = ", ".join(map(str, shape))
            raise ValueError(f"Images must be (N, {wanted}), got {tuple(values.shape)}.")
        if channels is not None and values.shape[1] != channels:
            raise ValueError(f"Images must be (N, {channels}, H, W), got {tuple(values.shape)}.")
        inside = (values >= 0) & (values <= 1)
        if values.is_floating_point() and not inside.all():
            raise ValueError(
                "Images of floating-point numbers must lie in [0, 1], got "
                f"[{values.min():.4g}, {values.max():.4g}]; give others as uint8, or as a batch."
            )
        return values.float().div_(255) if values.dtype == torch.uint8 else values.float()
    found = [_as_image(picture, shape, resize) for picture in as_pictures(images)]
    if len({image.shape for image in found}) != 1:
        shapes = sorted({tuple(image.shape) for image in found})
        raise ValueError(f"Images of one call must have one shape, got {shapes}.")
    return found[0][None] if len(found) == 1 else torch.stack(found)


def as_pictures(pictures: Any) -> Sequence[Any]:
    """Return one picture, or a sequence of them, as a sequence.

    Args:
        pictures: Pictures as ``as_images`` takes them, one or a sequence of them.

    Example:
        >>> as_pictures("a.png"), as_pictures(["a.png", "b.png"])
        (['a.png'], ['a.png', 'b.png'])
    """
    is_one = isinstance(pictures, (str, Member)) or not isinstance(pictures, Sequence)
    return [pictures] if is_one else pictures


def _as_image(picture: Any, shape: Sequence[int] | None, resize: int | None) -> Tensor:
    from PIL import Image
    from torchvision.transforms.v2 import functional as transforms

    if not isinstance(picture, (str, Path, Member, EncodedImage, Image.Image)):
        raise ValueError(
            "Images must be a tensor or an array (N, C, H, W), paths or PIL images, got a "
            f"{type(picture).__name__}."
        )
    channels = 3 if shape is None else shape[0]
    image = open_image(picture)
    wanted = "RGB" if channels == 3 else "L"
    if image.mode not in ("F", wanted):  # F has the levels that 8 bits have not
        image = image.convert(wanted)
    if shape is not None:
        size = list(shape[1:])
        covering = _covering(size, image.size, resize)
        name = "The image" if isinstance(picture, Image.Image) else str(picture)
        # a strip of pixels becomes large
        check_size(name, 8 * covering[0] * covering[1], f"a size of {covering} pixels")
        image = transforms.resize(image, covering)
        image = transforms.center_crop(image, size)
    values = transforms.to_dtype(transforms.pil_to_tensor(image), torch.float32, scale=True)
    return values.expand(channels, -1, -1)


def _covering(size: list[int], found: tuple[int, int], shorter: int | None) -> list[int]:
    """Return the (height, width) to resize to, so that a crop of ``size`` lies inside.

    Args:
        size: Height and width of the crop.
        found: Width and height of the image.
        shorter: Length of the shorter side; default what just covers the crop.
    """
    width, height = found
    if shorter is not None:
        size = [shorter, shorter]
    # as torchvision rounds where one number is given
    if size[1] * height >= size[0] * width:
        return [max(size[0], size[1] * height // width), size[1]]
    return [size[0], max(size[1], size[0] * width // height)]
