"""Whole images with the people that were found on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from framework.detection.pictures import CLASS_COLORS, MOST_NAMED, as_bytes, texts_of

LONE_COLOR = "#F0E442"
"""Color of parts without a body: the yellow of the palette, which no person has."""


def person_colors(labels: Tensor, body: Tensor) -> list[str]:
    """Return the color of each body and of each part, which is that of its body.

    Args:
        labels: (n,) int64, 0 for bodies.
        body: (n,) int64 row of the body of each part, -1 where it has none.

    Example:
        >>> colors = person_colors(torch.tensor([0, 1, 0, 1]), torch.tensor([-1, 2, -1, -1]))
        >>> colors[1] == colors[2], colors[0] == colors[2], colors[3]
        (True, False, '#F0E442')
    """
    numbers = (labels == 0).cumsum(0) - 1
    colors = []
    for row, (label, owner) in enumerate(zip(labels.tolist(), body.tolist(), strict=True)):
        number = numbers[row if label == 0 else owner]
        is_lone = label > 0 and owner < 0
        colors.append(LONE_COLOR if is_lone else CLASS_COLORS[int(number) % len(CLASS_COLORS)])
    return colors


def draw_people(image: Tensor, found: dict[str, Tensor], class_names: Sequence[str]) -> Tensor:
    """Return the image (3, H, W) uint8 with each person in a color of its own.

    A line joins the center of a part to that of its body; parts without one are yellow. Class and
    score stand beside a box unless there are more than ``MOST_NAMED``.

    Args:
        image: (3, H, W), uint8 or float in [0, 1].
        found: Detections: ``boxes`` (n, 4), ``scores``, ``labels`` and ``body`` (n,).
        class_names: Class names by label, the body's first.

    Example:
        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0, 30, 30], [12, 2, 18, 8]]),
        ...     "scores": torch.tensor([0.9, 0.8]),
        ...     "labels": torch.tensor([0, 1]),
        ...     "body": torch.tensor([-1, 0]),
        ... }
        >>> drawn = draw_people(torch.zeros(3, 32, 32), found, ["body", "head"])
        >>> drawn.dtype, bool((drawn[:, 30, 9] == drawn[:, 12, 15]).all())
        (torch.uint8, True)
    """
    image = as_bytes(image)
    if not len(found["scores"]):
        return image
    from PIL import Image, ImageDraw
    from torchvision.utils import draw_bounding_boxes

    colors = person_colors(found["labels"], found["body"])
    texts = None
    if len(colors) <= MOST_NAMED:
        texts = texts_of(found["labels"], found["scores"], class_names)
    width = max(1, round(min(image.shape[1:]) / 300))
    boxes = found["boxes"].round()
    drawn = draw_bounding_boxes(image, boxes, texts, list(colors), width=width)
    picture = Image.fromarray(drawn.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(picture)
    centers = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    for row, owner in enumerate(found["body"].tolist()):
        if owner >= 0:
            pen.line((*centers[row], *centers[owner]), fill=colors[row], width=width)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
