"""The first images of an evaluation with the oriented objects that were and should be found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.detection.image_samples import ImageSamples, filled_up

MOST_OBJECTS = 200
"""Per image; nobody tells more apart on a picture."""


class KeptDetections(NamedTuple):
    """The images with the lowest indices, in their order; P of them at most.

    Args:
        images: (P, C, H, W) uint8.
        objects: (P, 2, n, 10) detections and true objects: corners, label, and score or whether it
            is difficult; -1 fills up. Torchmetrics makes scalars of tensors with one element, so
            lists of them would not keep their shapes.
    """

    images: Tensor
    objects: Tensor

    @property
    def found(self) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4, 2), ``scores`` (n,) and ``labels`` (n,)."""
        return [_objects(rows[0], "scores") for rows in self.objects]

    @property
    def truth(self) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4, 2), ``labels`` (n,) and ``difficult`` (n,)."""
        return [_objects(rows[1], "difficult") for rows in self.objects]


class DetectionSamples(ImageSamples):
    """Keeps the images with the lowest indices and the best of their detections.

    Memory is fixed, and batches and ranks do not matter.

    Args:
        image_shape: (C, H, W).
        images: Number of images kept, P.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: P below 1, or images of another shape.

    Example:
        >>> import torch
        >>> from framework.detection.detection_samples import DetectionSamples
        >>> samples = DetectionSamples((3, 8, 8), images=1)
        >>> box, label = torch.zeros(1, 4, 2), torch.tensor([4])
        >>> found = [{"boxes": box, "scores": torch.tensor([0.5]), "labels": label}] * 2
        >>> truth = [{"boxes": box, "labels": label, "difficult": torch.tensor([False])}] * 2
        >>> samples.update(torch.rand(2, 3, 8, 8), found, truth, torch.tensor([7, 3]))
        >>> kept = samples.compute()
        >>> kept.images.shape, kept.found[0]["scores"]
        (torch.Size([1, 3, 8, 8]), tensor([0.5000]))
    """

    shape = (MOST_OBJECTS, 10)

    def rows_of(self, found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
        """Return the objects of one image as they stand in ``KeptDetections``."""
        return object_rows(found, truth)

    def compute(self) -> KeptDetections:
        """Return the images over all ranks."""
        return KeptDetections(*self.kept())


def object_rows(found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Return the objects of one image as they stand in ``KeptDetections``, (2, n, 10)."""
    return torch.stack([_row(found, "scores"), _row(truth, "difficult")])


def _row(objects: dict[str, Tensor], last: str) -> Tensor:
    """Return the first objects as rows of ten numbers, filled up with -1."""
    return filled_up([objects[name] for name in ("boxes", "labels", last)], (MOST_OBJECTS, 10))


def _objects(rows: Tensor, last: str) -> dict[str, Tensor]:
    rows = rows[rows[:, 8] >= 0]
    value = rows[:, 9] > 0 if last == "difficult" else rows[:, 9]
    return {"boxes": rows[:, :8].view(-1, 4, 2), "labels": rows[:, 8].long(), last: value}
