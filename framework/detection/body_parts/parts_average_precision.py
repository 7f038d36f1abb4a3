"""Average precision of bodies and parts by the rules of COCO, as on COCO Human Parts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.detection.body_parts.body_part_metric import Arrays, BodyPartMetric
from framework.detection.body_parts.matching import Array
from framework.utilities.checks import check_at_least
from framework.utilities.packages import require_package

_TRUE, _CROWD, _FOUND, _SUBORDINATE = range(4)
"""Kinds of rows: an object, a region to be ignored, a detection, and a part with its body."""


class PartsAveragePrecision(BodyPartMetric):
    """COCO's average precision of all parts (AP@a), and of those that have a body (AP@s).

    ``compute`` returns ``map``, the mean over the C classes and the overlaps 0.5 to 0.95, the same
    at one overlap, ``map_50`` and ``map_75``, and of objects by area, ``map_small``, ``map_medium``
    and ``map_large``; ``map_subordinate``, ``map_subordinate_50`` and so on, where parts without a
    body are left out; and for each class, such as ``head``, ``head_ap``, ``head_ap_50`` and
    ``head_ap_subordinate``. A class without objects is NaN and does not count in a mean.

    Ignored bodies are crowds, also for the classes of the parts, and so are ignored parts. Areas
    are those of the boxes. The numbers are pycocotools'.

    Paper: Zhou et al., BPJDet: Extended Object Representation for Generic Body-Part Joint
    Detection, TPAMI 2024, arXiv:2304.10765, after Yang et al., Hier R-CNN: Instance-level Human
    Parts Detection and A New Benchmark, TIP 2021.

    Args:
        class_names: Names of the C classes, that of the body first.
        slot_classes: Class of each of the K slots, in 1..C-1.
        max_detections: Most detections of a class on an image, the best of which count.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ModuleNotFoundError: pycocotools, of the extra ``detection``, is not installed.
        ValueError: An argument is out of range, or an update has other fields or shapes.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import PartsAveragePrecision
        >>> truth = {
        ...     "bodies": torch.tensor([[0.0, 0, 20, 60], [30, 0, 50, 60]]),
        ...     "parts": torch.tensor([[[5.0, 0, 15, 10]], [[35, 0, 45, 10]]]),
        ...     "visible": torch.tensor([[True], [True]]),
        ...     "part_ignored": torch.tensor([[False], [False]]),
        ...     "visible_ratio": torch.ones(2),
        ...     "ignored": torch.tensor([False, False]),
        ...     "image_size": torch.tensor([64.0, 64.0]),
        ... }
        >>> found = {
        ...     "boxes": torch.cat([truth["bodies"], truth["parts"][:, 0]]),
        ...     "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]),
        ...     "labels": torch.tensor([0, 0, 1, 1]),
        ...     "body": torch.tensor([-1, -1, 0, -1]),
        ... }
        >>> metric = PartsAveragePrecision(("body", "head"), slot_classes=(1,))
        >>> metric.update([found], [truth], torch.tensor([0]))
        >>> values = metric.compute()
        >>> values["map"], values["head_ap_subordinate"], values["map_subordinate"]
        (tensor(1.), tensor(0.5050), tensor(0.7525))
    """

    higher_is_better = True

    def __init__(
        self,
        class_names: Sequence[str],
        slot_classes: Sequence[int],
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        require_package("pycocotools", extra="detection", purpose="PartsAveragePrecision")
        check_at_least(1, max_detections=max_detections)
        # kind, label, score and corners
        super().__init__(class_names, slot_classes, counts=0, columns=7, **kwargs)
        self.max_detections = max_detections

    def _evaluate(self, found: Arrays, truth: Arrays) -> tuple[Sequence[int], Array]:
        bodies, parts, ignored = truth["bodies"], truth["parts"], truth["ignored"]
        rows = [_rows(np.where(ignored, _CROWD, _TRUE), 0, bodies)]
        hidden = truth["part_ignored"] | (truth["visible"] & ignored[:, None])
        for label in range(1, len(self.class_names)):
            slots = self.slots_of(label)
            rows += [
                _rows(_TRUE, label, parts[truth["visible"] & ~hidden & slots]),
                _rows(_CROWD, label, parts[hidden & slots]),
                _rows(_CROWD, label, bodies[ignored]),
            ]
        is_subordinate = (found["labels"] == 0) | (found["body"] >= 0)
        kind = np.where(is_subordinate, _SUBORDINATE, _FOUND)
        rows.append(_rows(kind, found["labels"], found["boxes"], found["scores"]))
        return (), np.concatenate(rows)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float32 scalars."""
        images, place, rows = self.gathered()
        classes = range(len(self.class_names))
        everything = self._per_class(classes, len(images), place, rows)
        kept = rows[:, 0] != _FOUND
        of_parts = self._per_class(classes[1:], len(images), place[kept], rows[kept])
        subordinate = {
            name: torch.cat([everything[name][:1], column]) for name, column in of_parts.items()
        }
        values: dict[str, Tensor] = {}
        for suffix, table in (("", everything), ("_subordinate", subordinate)):
            for ending, column in table.items():
                values[f"map{suffix}{ending}"] = column.nanmean()
                for name, value in zip(self.class_names, column, strict=True):
                    values[f"{name}_ap{suffix}{ending}"] = value
        return {name: value.float() for name, value in values.items()}

    def _per_class(
        self, classes: range, images: int, place: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        """Return the average precision of each class by the ending of its name."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        is_true = rows[:, 0] <= _CROWD
        sides = []
        with contextlib.redirect_stdout(io.StringIO()):
            for chosen in (is_true, ~is_true):
                side = COCO()
                side.dataset = {
                    "images": [{"id": image} for image in range(images)],
                    "categories": [{"id": label} for label in classes],
                    "annotations": _annotations(place[chosen], rows[chosen]),
                }
                side.createIndex()
                sides.append(side)
            evaluation = COCOeval(*sides, iouType="bbox")
            evaluation.params.maxDets = [self.max_detections]
            evaluation.params.imgIds = list(range(images))
            evaluation.params.catIds = list(classes)
            evaluation.evaluate()
            evaluation.accumulate()
        # overlaps, recalls, classes, areas, numbers of detections; -1 without objects
        precision = torch.from_numpy(evaluation.eval["precision"])[..., 0]
        precision = precision.masked_fill(precision < 0, torch.nan).mean(1)
        overlaps, areas = evaluation.params.iouThrs.round(2).tolist(), evaluation.params.areaRngLbl
        return {
            "": precision[:, :, 0].mean(0),
            "_50": precision[overlaps.index(0.5), :, 0],
            "_75": precision[overlaps.index(0.75), :, 0],
            **{f"_{area}": precision[:, :, k].mean(0) for k, area in enumerate(areas) if k},
        }


def _rows(kind: Any, label: Any, boxes: Array, scores: Any = 1.0) -> Array:
    columns = np.broadcast_arrays(kind, label, scores, *boxes.T)
    return np.stack(columns, 1).astype(np.float64)


def _annotations(place: Tensor, rows: Tensor) -> list[dict[str, Any]]:
    annotations = []
    # pycocotools takes a number of 0 for none
    for number, (image, row) in enumerate(zip(place.tolist(), rows.tolist(), strict=True), 1):
        kind, label, score, x0, y0, x1, y1 = row
        width, height = x1 - x0, y1 - y0
        annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": int(label),
                "iscrowd": int(kind == _CROWD),
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "score": score,
            }
        )
    return annotations
