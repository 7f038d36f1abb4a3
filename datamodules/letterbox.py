"""Images of any size as squares, resized as a whole and filled up with gray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from framework.data.datasets import Sample
from framework.data.image_files import decode_image
from framework.detection.body_parts.people import PeopleTable

if TYPE_CHECKING:
    from PIL import Image

GRAY_LEVEL = 114
"""Gray level, of 0 to 255, beside an image."""


def letterbox(picture: Image.Image, size: int) -> Sample:
    """Return a picture as a square whose side is its longer one, in the middle of gray.

    Args:
        picture: Image in RGB.
        size: Side of the square, in pixels.

    Returns:
        ``image`` (3, S, S) float32 in [0, 1], ``letterbox_offset`` (2,) and ``letterbox_scale`` (),
        by which ``to_whole_image`` returns to the original, and its ``image_size`` (2,), width and
        height.

    Example:
        >>> from PIL import Image
        >>> boxed = letterbox(Image.new("RGB", (64, 32)), 32)
        >>> boxed["letterbox_offset"], boxed["letterbox_scale"], boxed["image"][0, 7:9, 0]
        (tensor([ 0., -8.]), tensor(0.5000), tensor([0.4471, 0.0000]))
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as transforms

    scale = torch.tensor(size / max(picture.size))
    width, height = resized(picture.size, float(scale))
    left, top = (size - width) // 2, (size - height) // 2
    canvas = Image.new("RGB", (size, size), (GRAY_LEVEL,) * 3)
    canvas.paste(picture.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return {
        "image": transforms.pil_to_tensor(canvas).float().div_(255),
        "letterbox_offset": torch.tensor([-left, -top], dtype=torch.float32),
        "letterbox_scale": scale,
        "image_size": torch.tensor(picture.size, dtype=torch.float32),
    }


def resized(size: Sequence[float], scale: float) -> tuple[int, int]:
    """Return the width and height that a picture of a width and height has in its letterbox."""
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


class LetterboxedImages(Dataset[Sample]):
    """Images on files as squares, decoded when they are read, with their people.

    Samples hold the fields of ``letterbox`` and, where people are given, theirs in pixels of the
    square.

    Args:
        paths: Files of the N images.
        size: Side of the square, in pixels.
        people: People of the images in pixels of these, if they are known.
    """

    decodes = True
    """Reading a sample is work that loading processes should do."""

    def __init__(self, paths: Sequence[Path], size: int, people: PeopleTable | None = None) -> None:
        self.paths = np.array([str(path) for path in paths], dtype=str)  # shared by processes
        self.size = size
        self.people = people

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Sample:
        sample = letterbox(decode_image(Path(self.paths[row])), self.size)
        if self.people is None:
            return sample
        people = self.people[row]
        scale, offset = sample["letterbox_scale"], sample["letterbox_offset"].repeat(2)

        def placed(boxes: Tensor) -> Tensor:
            return boxes * scale - offset

        there = (people.visible | people.part_ignored)[..., None]
        moved = {
            "bodies": placed(people.bodies),
            "parts": torch.where(there, placed(people.parts), 0),
        }
        return {**sample, **people.fields(), **moved}
