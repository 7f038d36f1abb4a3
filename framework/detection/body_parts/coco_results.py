"""Bodies and parts in COCO's form of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

PIXELS, SHARES = 2, 5
"""Decimals of places and of scores."""


def coco_results(
    found: Mapping[int, Mapping[str, Tensor]],
    image_names: Mapping[int, str],
    class_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return one entry for each detection, image by image and best first, as pycocotools reads it.

    An entry has ``image_id`` and ``file_name``; ``category_id``, 1 for the body, and ``category``;
    ``bbox``, left, top, width and height in pixels to two decimals; ``score`` to five; ``id``, from
    1; for a part ``body_id``, the ``id`` of its body or None, and for a body ``part_centers``,
    where it expects the centers of its parts, slot by slot; and where they are known ``states``.

    Args:
        found: By image ``boxes`` (n, 4), left, top, right and bottom; ``scores``, ``labels`` and
            ``body`` (n,); ``points`` (n, K, 2); and where they are known ``states`` (n, 4).
        image_names: Name by image.
        class_names: Class names by label, that of the body first.

    Example:
        >>> import torch
        >>> one = {
        ...     "boxes": torch.tensor([[0.0, 0, 40, 90], [15, 5, 25, 20]]),
        ...     "scores": torch.tensor([0.75, 0.5]),
        ...     "labels": torch.tensor([0, 1]),
        ...     "points": torch.tensor([[[20.0, 12]], [[20, 45]]]),
        ...     "body": torch.tensor([-1, 0]),
        ... }
        >>> body, head = coco_results({7: one}, {7: "street.jpg"}, ["body", "head"])
        >>> body["bbox"], body["part_centers"], head["body_id"]
        ([0.0, 0.0, 40.0, 90.0], [[20.0, 12.0]], 1)
    """
    results: list[dict[str, Any]] = []
    for image, one in found.items():
        first = len(results) + 1
        lists = {name: _rounded(value) for name, value in one.items()}
        for row, (box, label) in enumerate(zip(lists["boxes"], lists["labels"], strict=True)):
            left, top, right, bottom = box
            entry = {
                "id": first + row,
                "image_id": image,
                "file_name": image_names[image],
                "category_id": label + 1,
                "category": class_names[label],
                "bbox": [left, top, round(right - left, PIXELS), round(bottom - top, PIXELS)],
                "score": lists["scores"][row],
            }
            if label == 0:
                entry["part_centers"] = lists["points"][row]
            else:
                body = lists["body"][row]
                entry["body_id"] = first + body if body >= 0 else None
                if "states" in lists:
                    entry["states"] = lists["states"][row]
            results.append(entry)
    return results


def _rounded(value: Tensor) -> list[Any]:
    if not value.is_floating_point():
        return value.tolist()
    return value.double().round(decimals=SHARES if value.ndim == 1 else PIXELS).tolist()
