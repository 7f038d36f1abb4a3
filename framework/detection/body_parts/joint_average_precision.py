"""Joint average precision of parts and the bodies that they belong to, as on BodyHands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from framework.detection.average_precision import (
    average_precision,
    interpolated_precision,
    precision_recall,
)
from framework.detection.body_parts.body_part_metric import (
    Arrays,
    BodyPartMetric,
    by_score,
    ranked,
)
from framework.detection.body_parts.matching import (
    CORRECT,
    UNCOUNTED,
    WRONG,
    Array,
    first_of_each,
    overlaps,
)
from framework.utilities.checks import check_one_of

IOU = 0.5
RECALLS = torch.tensor([k / 10 for k in range(11)], dtype=torch.float64)
"""Recalls of VOC07: the fourth is 0.3, as 3 of 10 parts are, where 3 * 0.1 would be more."""


class JointAveragePrecision(BodyPartMetric):
    """Average precision of parts that are found together with their body, at an overlap above 0.5.

    Looked at are the detected parts that have a body. The best first, each is compared with the
    part of its class that it overlaps most, found already or not, by the rules of PASCAL VOC. Parts
    that are ignored, or whose body is, need not be found and cost nothing.

    ``compute`` returns for each part class, such as ``hand``,

    * ``hand_ap_associated``: average precision of the parts, whatever their body;
    * ``hand_conditional_accuracy``: share of those found, 0 without any, of which the body is right
      too, that is, overlaps the true part's body by more than 0.5;
    * ``hand_joint_ap``: average precision where a part is found only with the right body;

    and ``ap_associated``, ``conditional_accuracy`` and ``joint_ap``, the means over part classes. A
    class without objects is NaN and does not count in a mean.

    Paper: Narasimhaswamy et al., Whose Hands Are These? Hand Detection and Hand-Body Association in
    the Wild, CVPR 2022. BPJDet's tables call ``ap_associated``
    "Dual" or "Joint AP", and ``joint_ap`` "Single". The evaluation code adds 1 to the widths of
    boxes that include their last pixel; of boxes from edge to edge, as here, the overlaps are the
    same without.

    Args:
        class_names: Names of the C classes, that of the body first.
        slot_classes: Class of each of the K slots, in 1..C-1.
        interpolation: Integration rule: ``'voc07'``, as published, the mean over the recalls 0,
            0.1, ..., 1; or ``'voc12'``, the area under the precision that never rises.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: An argument is out of range, or an update has other fields or shapes.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import JointAveragePrecision
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
        ...     "body": torch.tensor([-1, -1, 0, 0]),
        ... }
        >>> metric = JointAveragePrecision(("body", "hand"), slot_classes=(1,))
        >>> metric.update([found], [truth], torch.tensor([0]))
        >>> values = metric.compute()
        >>> values["hand_ap_associated"], values["hand_conditional_accuracy"]
        (tensor(1.), tensor(0.5000))
        >>> values["hand_joint_ap"]
        tensor(0.5455)
    """

    higher_is_better = True

    def __init__(
        self,
        class_names: Sequence[str],
        slot_classes: Sequence[int],
        interpolation: Literal["voc07", "voc12"] = "voc07",
        **kwargs: Any,
    ) -> None:
        # the parts of each class; label, score, match of the part and of both, right body
        counts = len(class_names) - 1
        super().__init__(class_names, slot_classes, counts=counts, columns=5, **kwargs)
        check_one_of(("voc07", "voc12"), interpolation=interpolation)
        self.interpolation = interpolation

    def _evaluate(self, found: Arrays, truth: Arrays) -> tuple[Sequence[int], Array]:
        counts, rows = [], []
        for label in range(1, len(self.class_names)):
            mine = ranked(found["scores"], (found["labels"] == label) & (found["body"] >= 0))
            parts, bodies = found["boxes"][mine], found["boxes"][found["body"][mine]]
            owner, true_parts, difficult = self.true_pairs(truth, label)
            counts.append(int((~difficult).sum()))
            part_iou, _ = overlaps(parts, true_parts)
            body_iou, _ = overlaps(bodies, truth["bodies"][owner])
            columns = [np.full(len(mine), label), found["scores"][mine]]
            if len(difficult):
                nearest = part_iou.argmax(1)
                place = np.arange(len(mine))
                near = part_iou[place, nearest] > IOU
                both = body_iou[place, nearest] > IOU
                uncounted = near & difficult[nearest]
                for candidates in (near, near & both):
                    hit = first_of_each(nearest, candidates & ~uncounted)
                    columns.append(np.where(uncounted, UNCOUNTED, np.where(hit, CORRECT, WRONG)))
                columns.append(both)
            else:
                columns.extend([np.zeros(len(mine))] * 3)
            rows.append(np.column_stack(columns))
        return counts, np.concatenate(rows)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float32 scalars."""
        counts, _, rows = self.gathered()
        values: dict[str, list[Tensor]] = {
            name: [] for name in ("ap_associated", "conditional_accuracy", "joint_ap")
        }
        for label, positives in enumerate(counts.sum(0).tolist(), start=1):
            mine = rows[(rows[:, 0] == label) & (rows[:, 2] != UNCOUNTED)]
            part, joint, both = by_score(mine, mine[:, 1])[:, 2:].bool().unbind(1)
            for name, correct in (("ap_associated", part), ("joint_ap", joint)):
                ap = rows.new_tensor(torch.nan)
                if positives:
                    curve = precision_recall(correct, positives)
                    ap = self._average(*curve)
                values[name].append(ap)
            accuracy = (both & part).sum() / part.sum().clamp(min=1).double()
            values["conditional_accuracy"].append(accuracy if positives else ap)
        parts = self.class_names[1:]
        by_class = {
            f"{part}_{name}": value
            for name, row in values.items()
            for part, value in zip(parts, row, strict=True)
        }
        means = {name: torch.stack(row).nanmean() for name, row in values.items()}
        return {name: value.float() for name, value in (by_class | means).items()}

    def _average(self, recall: Tensor, precision: Tensor) -> Tensor:
        if self.interpolation == "voc07":
            return interpolated_precision(recall, precision, RECALLS).mean()
        return average_precision(recall, precision, "voc12")
