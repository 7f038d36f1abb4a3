"""The first images of an evaluation with what was and what should be found on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least
from framework.utilities.packed_copy import copy_packed

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


class DetectionSamples(Metric):
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

    full_state_update = True
    is_differentiable = False
    image: Tensor
    index: Tensor
    objects: Tensor

    def __init__(self, image_shape: Sequence[int], images: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, images=images)
        self.image_shape = tuple(image_shape)
        image = torch.zeros(images, *image_shape, dtype=torch.uint8)
        self.add_state("image", image, dist_reduce_fx=None)
        # an empty place comes after every image; ranks are stacked
        empty = torch.full((images,), torch.iinfo(torch.int64).max)
        self.add_state("index", empty, dist_reduce_fx=None)
        # of detections and of true objects: corners, label, and score or difficulty
        objects = torch.full((images, 2, MOST_OBJECTS, 10), -1.0)
        self.add_state("objects", objects, dist_reduce_fx=None)

    def update(
        self,
        image: Tensor,
        found: Sequence[dict[str, Tensor]],
        truth: Sequence[dict[str, Tensor]],
        index: Tensor,
    ) -> None:
        """Keep those images of a batch that come before the ones kept so far.

        Args:
            image: (B, C, H, W) in [0, 1].
            found: Detections of each image, ``boxes``, ``scores`` and ``labels``, best first.
            truth: Objects of each image, ``boxes``, ``labels`` and ``difficult``.
            index: (B,) int64 stable number of the image.
        """
        if tuple(image.shape[1:]) != self.image_shape:
            raise ValueError(
                f"The images are {tuple(image.shape[1:])}, but those of the figure were to be "
                f"{self.image_shape}."
            )
        last = int(self.index.max())
        chosen = [row for row, number in enumerate(index.tolist()) if number < last]
        if not chosen:
            return
        added = {
            "index": torch.stack([index[row] for row in chosen]),
            "objects": torch.stack([object_rows(found[row], truth[row]) for row in chosen]),
        }
        added = copy_packed(added, self.index.device)
        pixels = torch.stack([image[row] for row in chosen])
        pixels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        joined = (
            torch.cat([self.image, pixels]),
            torch.cat([self.index, added["index"]]),
            torch.cat([self.objects, added["objects"].to(self.objects.dtype)]),
        )
        order = joined[1].argsort(stable=True)[: len(self.index)]
        self.image, self.index, self.objects = (state[order] for state in joined)

    def compute(self) -> KeptDetections:
        """Return the images over all ranks."""
        image, index, objects = self.image, self.index, self.objects
        if index.ndim == 2:
            places = index.shape[1]
            image, index, objects = (state.flatten(0, 1) for state in (image, index, objects))
            order = index.argsort(stable=True)[:places]
            image, index, objects = image[order], index[order], objects[order]
        filled = index < torch.iinfo(torch.int64).max
        return KeptDetections(image[filled], objects[filled])


def object_rows(found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Return the objects of one image as they stand in ``KeptDetections``, (2, n, 10)."""
    return torch.stack([_row(found, "scores"), _row(truth, "difficult")])


def _row(objects: dict[str, Tensor], last: str) -> Tensor:
    """Return the first objects as rows of ten numbers, filled up with -1."""
    boxes = objects["boxes"][:MOST_OBJECTS]
    parts = [boxes.flatten(1), *(objects[n][:MOST_OBJECTS, None] for n in ("labels", last))]
    rows = boxes.new_full((MOST_OBJECTS, 10), -1, dtype=torch.float32)
    rows[: len(boxes)] = torch.cat([part.to(rows) for part in parts], 1)
    return rows


def _objects(rows: Tensor, last: str) -> dict[str, Tensor]:
    rows = rows[rows[:, 8] >= 0]
    value = rows[:, 9] > 0 if last == "difficult" else rows[:, 9]
    return {"boxes": rows[:, :8].view(-1, 4, 2), "labels": rows[:, 8].long(), last: value}
