"""Average precision and miss rate of bodies and parts, by the rules of CrowdHuman."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.detection.average_precision import precision_recall
from framework.detection.body_parts.body_part_metric import (
    Arrays,
    BodyPartMetric,
    by_score,
    ranked,
)
from framework.detection.body_parts.matching import (
    UNCOUNTED,
    Array,
    match_greedily,
    overlaps,
)
from framework.detection.body_parts.miss_rate import (
    FPPI_GRID,
    log_average_miss_rate,
    miss_rate_curve,
    miss_rate_up_to,
)

IOU = 0.5


class CrowdHumanAveragePrecision(BodyPartMetric):
    """Average precision and log-average miss rate of each class at an overlap above 0.5.

    Boxes are cut off at the border of the image; what lies outside of it is left out. A detection,
    the best first, takes the object that it overlaps most and that is not taken. One that finds
    none is overlooked where more than half of it lies in a region to be ignored: an ignored body,
    which also counts for all its parts, or an ignored part. Other detections are wrong.

    ``compute`` returns for each class, such as ``body`` and ``head``,

    * ``body_ap_crowdhuman``: the area under the precision by trapezoids between detections, from
      the first one on. Nothing is interpolated, so N objects found without error give (N - 1) / N;
    * ``body_mr``: the miss rate averaged over 0.01 to 1 false positives per image (MR^-2), where
      images with ignored persons only do not count;
    * ``body_miss_rate`` (R,) at the R false positives per image ``fppi``, for a figure.

    A class without objects is NaN.

    Paper: Shao et al., CrowdHuman: A Benchmark for Detecting Human in a Crowd, arXiv:1805.00123;
    the rules are those of its evaluation code, and for parts those of BPJDet's.

    Args:
        class_names: Names of the C classes, that of the body first.
        slot_classes: Class of each of the K slots, in 1..C-1.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: An argument is out of range, or an update has other fields or shapes.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import CrowdHumanAveragePrecision
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
        ...     "boxes": torch.cat([truth["bodies"], truth["parts"][:1, 0]]),
        ...     "scores": torch.tensor([0.9, 0.8, 0.7]),
        ...     "labels": torch.tensor([0, 0, 1]),
        ... }
        >>> metric = CrowdHumanAveragePrecision(("body", "head"), slot_classes=(1,))
        >>> metric.update([found], [truth], torch.tensor([0]))
        >>> values = metric.compute()
        >>> values["body_ap_crowdhuman"], values["body_mr"], values["head_mr"]
        (tensor(0.5000), tensor(0.), tensor(0.5000))
    """

    found_fields = ("boxes", "scores", "labels")

    def __init__(
        self, class_names: Sequence[str], slot_classes: Sequence[int], **kwargs: Any
    ) -> None:
        # whether the image counts, and the objects of each class; label, score and match
        super().__init__(
            class_names, slot_classes, counts=1 + len(class_names), columns=3, **kwargs
        )

    def _evaluate(self, found: Arrays, truth: Arrays) -> tuple[Sequence[int], Array]:
        size = truth["image_size"]
        boxes = _cut_off(found["boxes"], size)
        # a box that was empty before, or is not finite, stays, and is wrong
        inside = ~_is_empty(boxes) | _is_empty(found["boxes"])
        counts, rows = [int(not truth["ignored"].all())], []
        for label in range(len(self.class_names)):
            objects, regions = (_cut_off(each, size) for each in self._objects(truth, label))
            objects = objects[~_is_empty(objects)]
            mine = ranked(found["scores"], (found["labels"] == label) & inside)
            iou, _ = overlaps(boxes[mine], objects)
            _, share = overlaps(boxes[mine], regions)
            result = match_greedily([iou], share > IOU, threshold=IOU, inclusive=False)
            counts.append(len(objects))
            rows.append(np.column_stack([np.full(len(mine), label), found["scores"][mine], result]))
        return counts, np.concatenate(rows)

    def _objects(self, truth: Arrays, label: int) -> tuple[Array, Array]:
        """Return the objects of a class, and the regions where nobody looks for it."""
        bodies, ignored = truth["bodies"], truth["ignored"]
        if not label:
            return bodies[~ignored], bodies[ignored]
        of_valid = ~ignored[:, None] & self.slots_of(label)
        hidden = truth["parts"][of_valid & truth["part_ignored"]]
        objects = truth["parts"][of_valid & truth["visible"] & ~truth["part_ignored"]]
        return objects, np.concatenate([bodies[ignored], hidden])

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float32."""
        counts, _, rows = self.gathered()
        images, *positives = counts.sum(0).tolist()
        values = {"fppi": FPPI_GRID.float()}
        for label, name in enumerate(self.class_names):
            mine = rows[(rows[:, 0] == label) & (rows[:, 2] != UNCOUNTED)]
            correct = by_score(mine[:, 2], mine[:, 1]) > 0
            ap = mr = rows.new_tensor(torch.nan)
            drawn = torch.full_like(FPPI_GRID, torch.nan)
            if positives[label]:
                recall, precision = precision_recall(correct, positives[label])
                ap = torch.trapezoid(precision, recall)
                curve = miss_rate_curve(correct, positives[label], images)
                mr = log_average_miss_rate(*curve, reading="from")
                drawn = miss_rate_up_to(FPPI_GRID, *curve)
            values |= {
                f"{name}_ap_crowdhuman": ap.float(),
                f"{name}_mr": mr.float(),
                f"{name}_miss_rate": drawn.float(),
            }
        return values


def _cut_off(boxes: Array, size: Array) -> Array:
    return boxes.clip(0, np.concatenate([size, size]))


def _is_empty(boxes: Array) -> Any:
    return ~(boxes[:, 2:] > boxes[:, :2]).all(1)
