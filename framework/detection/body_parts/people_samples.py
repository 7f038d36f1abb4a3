"""The first images of an evaluation with the people that were and should be found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.detection.image_samples import ImageSamples, filled_up

MOST_BOXES = 400
"""Bodies and parts of an image; nobody tells more apart on a picture."""


class KeptPeople(NamedTuple):
    """The images with the lowest indices, in their order; P of them at most.

    Args:
        images: (P, C, H, W) uint8.
        objects: (P, 2, n, 7) found and true bodies and parts: box, label, score or whether it is
            ignored, and row of the body of a part or -1; -1 fills up.
    """

    images: Tensor
    objects: Tensor

    @property
    def found(self) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4), ``labels`` (n,), ``scores`` (n,) and ``body`` (n,)."""
        return [_boxes(rows[0], "scores") for rows in self.objects]

    @property
    def truth(self) -> list[dict[str, Tensor]]:
        """Per image ``boxes`` (n, 4), ``labels`` (n,), ``ignored`` (n,) and ``body`` (n,)."""
        return [_boxes(rows[1], "ignored") for rows in self.objects]


class PeopleSamples(ImageSamples):
    """Keeps the images with the lowest indices and the best of the people found on them.

    Memory is fixed, and batches and ranks do not matter. All boxes are in pixels of the images.

    Args:
        image_shape: (C, H, W).
        images: Number of images kept, P.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: P below 1, or images of another shape.

    Example:
        >>> from framework.detection.body_parts.people import People
        >>> samples = PeopleSamples((3, 8, 8), images=1)
        >>> found = {
        ...     "boxes": torch.tensor([[0.0, 0, 8, 8], [2, 0, 4, 2]]),
        ...     "scores": torch.tensor([0.9, 0.8]),
        ...     "labels": torch.tensor([0, 1]),
        ...     "body": torch.tensor([-1, 0]),
        ... }
        >>> truth = People.none(num_slots=1).fields()
        >>> samples.update(torch.rand(1, 3, 8, 8), [found], [truth], torch.tensor([3]))
        >>> samples.compute().found[0]["body"]
        tensor([-1,  0])
    """

    shape = (MOST_BOXES, 7)

    def rows_of(self, found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
        """Return the boxes of one image as they stand in ``KeptPeople``."""
        return people_rows(found, truth)

    def compute(self) -> KeptPeople:
        """Return the images over all ranks."""
        return KeptPeople(*self.kept())


def people_rows(found: dict[str, Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Return the boxes of one image as they stand in ``KeptPeople``, (2, n, 7).

    Args:
        found: Detections: ``boxes`` (n, 4), ``scores``, ``labels`` and ``body`` (n,), best first.
        truth: Fields of ``People``; its parts all get label 1.
    """
    rows = filled_up([found[n] for n in ("boxes", "labels", "scores", "body")], PeopleSamples.shape)
    # a body that was cut off is none; in filled rows the last column is -1 already
    rows[:, 6] = torch.where(rows[:, 6] < MOST_BOXES, rows[:, 6], -1)
    return torch.stack([rows, _true_rows(truth)])


def _true_rows(truth: dict[str, Tensor]) -> Tensor:
    bodies, parts = truth["bodies"], truth["parts"]
    shown = truth["visible"] | truth["part_ignored"]
    body, slot = shown.nonzero(as_tuple=True)
    labels = torch.cat([body.new_zeros(len(bodies)), torch.ones_like(body)])
    return filled_up(
        [
            torch.cat([bodies, parts[body, slot]]),
            labels,
            torch.cat([truth["ignored"], truth["part_ignored"][body, slot]]),
            torch.cat([body.new_full((len(bodies),), -1), body]),
        ],
        PeopleSamples.shape,
    )


def _boxes(rows: Tensor, value: str) -> dict[str, Tensor]:
    rows = rows[rows[:, 4] >= 0]
    return {
        "boxes": rows[:, :4],
        "labels": rows[:, 4].long(),
        value: rows[:, 5] > 0 if value == "ignored" else rows[:, 5],
        "body": rows[:, 6].long(),
    }
