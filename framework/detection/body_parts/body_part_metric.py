"""What the metrics of bodies and parts share: numbers of each image, which count once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framework.detection.body_parts.field_checks import check_fields, check_present
from framework.detection.body_parts.matching import Array, Mask
from framework.detection.body_parts.people import NAMES
from framework.detection.detections import on_cpu
from framework.metrics.row_metric import RowMetric

Arrays = dict[str, NDArray[Any]]
Rows = NDArray[np.int64]

TRUTH_FIELDS = (*NAMES, "image_size")


class BodyPartMetric(RowMetric):
    """Base of metrics that compare images one by one and then rank the detections of all of them.

    What remains of an image is a few rows of numbers, made when it is seen. An image that comes
    twice, as where ranks are given equally many, counts once, and rows are ordered by the number of
    their image, so that batches and ranks do not matter.

    Args:
        class_names: Names of the C classes, that of the body first.
        slot_classes: Class of each of the K slots, in 1..C-1.
        counts: Number of whole numbers that belong to an image.
        columns: Number of columns of its rows.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: No part class, two classes of one name, or a slot of no part class.
    """

    found_fields: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels", "body")

    def __init__(
        self,
        class_names: Sequence[str],
        slot_classes: Sequence[int],
        *,
        counts: int,
        columns: int,
        **kwargs: Any,
    ) -> None:
        empty = {
            "images": torch.zeros(0, 2 + counts, dtype=torch.int64),
            "rows": torch.zeros(0, columns, dtype=torch.float64),
        }
        super().__init__(empty, **kwargs)
        if len(class_names) < 2 or len({*class_names}) < len(class_names):
            raise ValueError(
                "class_names must be distinct, that of the body and at least one part, got "
                f"{list(class_names)}."
            )
        if not all(0 < label < len(class_names) for label in slot_classes):
            raise ValueError(
                f"slot_classes must be in 1..{len(class_names) - 1}, got {list(slot_classes)}."
            )
        self.class_names = tuple(class_names)
        self.slot_classes = np.array(slot_classes, dtype=np.int64)

    @abstractmethod
    def _evaluate(self, found: Arrays, truth: Arrays) -> tuple[Sequence[int], Array]:
        """Return the counts of an image and its rows; overwritten by each metric."""

    def update(
        self,
        found: Sequence[dict[str, Tensor]],
        truth: Sequence[dict[str, Tensor]],
        image_id: Tensor | Sequence[int],
    ) -> None:
        """Add a batch of B images, in pixels of the images as they were before any resizing.

        Args:
            found: Detections of each image: ``boxes`` (n, 4), ``scores`` (n,), ``labels`` (n,)
                int64, and ``body`` (n,) int64, the row of the body that a part belongs to, or -1.
            truth: Fields of ``People`` of each image, and ``image_size`` (2,), width and height.
            image_id: (B,) int64 number of the image, over all ranks.

        Raises:
            ValueError: They are not equally many, a field is missing, or has another shape or type.
        """
        if not len(found) == len(truth) == len(image_id):
            raise ValueError(
                "found, truth and image_id must be as many, got "
                f"{len(found)}, {len(truth)} and {len(image_id)}."
            )
        for detections, people in zip(found, truth, strict=True):
            self._check(detections, people)
        found, truth = _chosen(found, self.found_fields), _chosen(truth, TRUTH_FIELDS)
        for detections in found:
            _check_bodies(detections)
        numbers = torch.as_tensor(image_id).tolist()
        for detections, people, image in zip(found, truth, numbers, strict=True):
            counts, rows = self._evaluate(_arrays(detections), _arrays(people))
            self.images.append(torch.tensor([[image, len(rows), *counts]]))  # type: ignore[operator, union-attr]
            self.rows.append(torch.from_numpy(rows))  # type: ignore[operator, union-attr]

    def _check(self, found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
        check_present(found, self.found_fields)
        check_present(truth, TRUTH_FIELDS)
        n, m, slots = len(found["boxes"]), len(truth["bodies"]), len(self.slot_classes)
        check_fields(
            found, {name: (n, 4) if name == "boxes" else (n,) for name in self.found_fields}
        )
        check_fields(
            truth,
            {
                "bodies": (m, 4),
                "parts": (m, slots, 4),
                "visible": (m, slots),
                "part_ignored": (m, slots),
                "visible_ratio": (m,),
                "ignored": (m,),
                "image_size": (2,),
            },
        )

    def gathered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the numbers of all images, ordered by the number of the image.

        Returns:
            Counts of each image (N, counts) int64, and of each row the place of its image in them
            (R,) int64 and its columns (R, columns) float64.
        """
        images, rows = (self.joined(name) for name in ("images", "rows"))
        first = torch.from_numpy(np.unique(images[:, 0].numpy(), return_index=True)[1])
        place = torch.full((len(images),), -1)
        place[first] = torch.arange(len(first))
        place = place.repeat_interleave(images[:, 1])
        kept = place >= 0
        place, order = place[kept].sort(stable=True)
        return images[first, 2:], place, rows[kept][order]

    def slots_of(self, label: int) -> Mask:
        """Return which slots hold parts of a class, (K,)."""
        return self.slot_classes == label

    def true_pairs(self, truth: Arrays, label: int) -> tuple[Rows, Array, Mask]:
        """Return person, box and whether it need not be found of each annotated part of a class."""
        annotated = (truth["visible"] | truth["part_ignored"]) & self.slots_of(label)
        ignored = truth["ignored"][:, None] | truth["part_ignored"]
        return annotated.nonzero()[0], truth["parts"][annotated], ignored[annotated]


def ranked(scores: Array, chosen: Mask) -> Rows:
    """Return the chosen rows by descending score, and by place where scores are equal."""
    rows = chosen.nonzero()[0]
    return rows[np.argsort(-scores[rows], kind="stable")]


def by_score(rows: Tensor, scores: Tensor) -> Tensor:
    """Return rows by descending score, and by place where scores are equal."""
    return rows[scores.argsort(descending=True, stable=True)]


def _chosen(images: Sequence[dict[str, Tensor]], names: Sequence[str]) -> list[dict[str, Tensor]]:
    return on_cpu([{name: one[name] for name in names} for one in images])


def _check_bodies(found: dict[str, Tensor]) -> None:
    body, number = found.get("body"), len(found["boxes"])
    if body is not None and bool(((body < -1) | (body >= number)).any()):
        raise ValueError(
            f"body must be in -1..{number - 1}, got {int(body.min())}..{int(body.max())}."
        )


def _arrays(tensors: dict[str, Tensor]) -> Arrays:
    return {
        name: (value.double() if value.is_floating_point() else value).detach().numpy()
        for name, value in tensors.items()
    }
