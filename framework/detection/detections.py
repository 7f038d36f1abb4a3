"""What detectors exchange with metrics and writers: one dict of tensors per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from framework.data.datasets import Batch
from framework.utilities.packed_copy import copy_packed

Detections = dict[str, Tensor]
"""``boxes`` (n, 4, 2) corners in pixels, ``scores`` (n,) descending and ``labels`` (n,) int64."""


def objects_of(batch: Batch, prefix: str = "") -> list[dict[str, Tensor]]:
    """Return the objects of each image of a padded batch, without the padding.

    Args:
        batch: Batch with ``quads`` (B, M, 4, 2), ``label`` (B, M) and ``difficult`` (B, M).
        prefix: Prefix of these names, such as ``image_`` for the objects of whole images.

    Returns:
        Per image ``boxes`` (n, 4, 2), ``labels`` (n,) and ``difficult`` (n,).

    Example:
        >>> import torch
        >>> label = torch.tensor([[2, -1], [0, 1]])
        >>> batch = {"quads": torch.zeros(2, 2, 4, 2), "label": label, "difficult": label > 1}
        >>> [objects["labels"].tolist() for objects in objects_of(batch)]
        [[2], [0, 1]]
    """
    quads, label, difficult = (batch[prefix + name] for name in ("quads", "label", "difficult"))
    return [
        {"boxes": boxes[kept], "labels": labels[kept], "difficult": hard[kept]}
        for boxes, labels, hard, kept in zip(quads, label, difficult, label >= 0, strict=True)
    ]


def on_cpu(images: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return detections or objects of many images on the CPU, by one copy.

    Example:
        >>> import torch
        >>> on_cpu([{"scores": torch.ones(1)}, {"scores": torch.zeros(0)}])
        [{'scores': tensor([1.])}, {'scores': tensor([])}]
    """
    fields = {
        f"{number} {name}": value
        for number, one in enumerate(images)
        for name, value in one.items()
    }
    copied = copy_packed(fields, "cpu")
    return [{name: copied[f"{number} {name}"] for name in one} for number, one in enumerate(images)]


def names_of_classes(module: Any, data: Any) -> list[str]:
    """Return a name for each class of a detector: from its training or its data, or ``class3``.

    Args:
        module: Detector with ``num_classes``, and the ``class_names`` of its training if it had
            one.
        data: Its data, which may have ``class_names``.

    Example:
        >>> from types import SimpleNamespace
        >>> data = SimpleNamespace(class_names=("ship", "plane"))
        >>> names_of_classes(SimpleNamespace(num_classes=3), data)
        ['ship', 'plane', 'class2']
    """
    known = getattr(module, "class_names", None) or getattr(data, "class_names", None)
    names = list(known or ())[: module.num_classes]
    return [*names, *(f"class{label}" for label in range(len(names), module.num_classes))]
