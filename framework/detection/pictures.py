"""Whole images with what was found on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from framework.data.image_files import decode_image
from framework.detection.detections import Detections
from framework.figures.style import COLORS
from framework.utilities.files import write_atomically

# black is not seen on dark images
CLASS_COLORS = COLORS[:-1]
MOST_NAMED = 60
"""More detections than these are drawn without names and scores, which would cover the image."""


def class_color(label: int) -> str:
    """Return the color of a class, the same on every picture."""
    return CLASS_COLORS[label % len(CLASS_COLORS)]


def read_picture(path: str | Path) -> Tensor:
    """Return an image file as (3, H, W) uint8.

    Raises:
        ValueError: the file cannot be decoded, by name.
    """
    import numpy as np

    return torch.from_numpy(np.array(decode_image(path))).permute(2, 0, 1)


def draw_detections(image: Tensor, found: Detections, class_names: Sequence[str]) -> Tensor:
    """Return the image (3, H, W) uint8 with every box in the color of its class.

    Class and score stand beside a box unless there are more than ``MOST_NAMED``.

    Args:
        image: (3, H, W), uint8 or float in [0, 1].
        found: Detections: ``boxes`` (n, 4, 2), ``scores`` (n,) and ``labels`` (n,).
        class_names: Class names by label.

    Example:
        >>> box = torch.tensor([[[1.0, 1], [6, 1], [6, 6], [1, 6]]])
        >>> found = {"boxes": box, "scores": torch.ones(1), "labels": torch.zeros(1).long()}
        >>> drawn = draw_detections(torch.zeros(3, 8, 8), found, ["ship"])
        >>> drawn.dtype, bool(drawn[:, 1, 3].any())
        (torch.uint8, True)
    """
    image = as_bytes(image)
    if not len(found["scores"]):
        return image
    from torchvision.utils import draw_bounding_boxes

    labels = found["labels"].tolist()
    texts = None
    if len(labels) <= MOST_NAMED:
        texts = texts_of(found["labels"], found["scores"], class_names)
    return draw_bounding_boxes(
        image,
        found["boxes"].flatten(1).round(),
        texts,
        [class_color(label) for label in labels],
        width=2 if min(image.shape[1:]) >= 400 else 1,
    )


def as_bytes(image: Tensor) -> Tensor:
    """Return images, uint8 or float in [0, 1], as uint8."""
    if image.dtype == torch.uint8:
        return image
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def texts_of(labels: Tensor, scores: Tensor, class_names: Sequence[str]) -> list[str]:
    """Return class and score of each detection as a text beside its box."""
    return [
        f"{class_names[label]} {score:.2f}"
        for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def write_picture(image: Tensor, path: Path) -> None:
    """Write (3, H, W) uint8 as PNG, whole or not at all."""
    from PIL import Image

    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    write_atomically(path, lambda file: picture.save(file, format="png"))
