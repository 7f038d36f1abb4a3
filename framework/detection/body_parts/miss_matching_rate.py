"""Miss matching rate: how many bodies are not found together with their part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from framework.detection.body_parts.body_part_metric import (
    Arrays,
    BodyPartMetric,
    by_score,
    ranked,
)
from framework.detection.body_parts.matching import (
    UNCOUNTED,
    Array,
    Mask,
    match_greedily,
    overlaps,
)
from framework.detection.body_parts.miss_rate import (
    FPPI_GRID,
    log_average_miss_rate,
    miss_rate_curve,
    miss_rate_up_to,
)
from framework.utilities.checks import check_one_of

IOU = 0.5
TOLERANCE = 1.25
"""Factor by which the height of a detected body may leave the range of a subset."""


class Subset(NamedTuple):
    """The pairs that an evaluation looks at, by closed ranges.

    Args:
        body_height: Height of the body in pixels.
        visible_ratio: Visible share of the body.
        part_height: Height of the part in pixels.
    """

    body_height: tuple[float, float]
    visible_ratio: tuple[float, float]
    part_height: tuple[float, float]


_UP = float("inf")
SUBSETS = {
    "crowdhuman": {
        "reasonable": Subset((50, _UP), (0.65, _UP), (10, _UP)),
        "small": Subset((50, 75), (0.65, _UP), (10, 15)),
        "heavy": Subset((50, _UP), (0.2, 0.65), (10, _UP)),
        "all": Subset((20, _UP), (0.2, _UP), (20, _UP)),
    },
    "citypersons": {
        "reasonable": Subset((50, _UP), (0.65, _UP), (20, _UP)),
        "bare": Subset((50, _UP), (0.9, _UP), (20, _UP)),
        "partial": Subset((50, _UP), (0.65, 0.9), (20, _UP)),
        "heavy": Subset((50, _UP), (0, 0.65), (20, _UP)),
    },
}


class MissMatchingRate(BodyPartMetric):
    """Log-average miss rate (mMR^-2) of pairs of a body and one of its parts.

    A detected part with its body is a pair, whose score is the sum of both. The best first, pairs
    take true pairs that are not taken and of which they overlap body and part by at least 0.5. One
    that finds none is overlooked where it would find a pair that does not belong to the subset, of
    which the body need only hold half of the detected one, or where its size is not the subset's.
    A part class with two slots, such as hands, has up to two pairs per body.

    ``compute`` returns for each part class, such as ``head``, and each subset
    ``head_mmr_reasonable`` and so on; ``head_mmr``, the mean over the subsets; and ``mmr``, the
    mean over the part classes. 0 is perfect, 1 is nothing found, and a subset without pairs is NaN
    and does not count in a mean. ``head_miss_matching_rate`` (S, R) holds the curves of the S
    subsets at the R false positives per image ``mmr_fppi``, for a figure.

    Paper: Wan et al., Body-Face Joint Detection via Embedding and Head Hook, ICCV 2021. Where the
    first pair is wrong already and lifts the false positives per image above a reference, as on
    fewer than 100 images, everything is missed there; the released code takes the final miss rate.

    Args:
        class_names: Names of the C classes, that of the body first.
        slot_classes: Class of each of the K slots, in 1..C-1.
        subsets: Subsets: ``'crowdhuman'``, reasonable, small, heavy and all, or ``'citypersons'``,
            reasonable, bare, partial and heavy.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: An argument is out of range, or an update has other fields or shapes.

    Example:
        >>> import torch
        >>> from framework.detection.body_parts import MissMatchingRate
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
        >>> metric = MissMatchingRate(("body", "head"), slot_classes=(1,))
        >>> metric.update([found], [truth], torch.tensor([0]))
        >>> metric.compute()["head_mmr_reasonable"]
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(
        self,
        class_names: Sequence[str],
        slot_classes: Sequence[int],
        subsets: Literal["crowdhuman", "citypersons"] = "crowdhuman",
        **kwargs: Any,
    ) -> None:
        check_one_of(SUBSETS, subsets=subsets)
        self.subsets = SUBSETS[subsets]
        # the pairs of each part class and subset; label, score and match in each subset
        counts, columns = (len(class_names) - 1) * len(self.subsets), 2 + len(self.subsets)
        super().__init__(class_names, slot_classes, counts=counts, columns=columns, **kwargs)

    def _evaluate(self, found: Arrays, truth: Arrays) -> tuple[Sequence[int], Array]:
        counts, rows = [], []
        scores = found["scores"] + found["scores"][found["body"]]
        for label in range(1, len(self.class_names)):
            mine = ranked(scores, (found["labels"] == label) & (found["body"] >= 0))
            parts, bodies = found["boxes"][mine], found["boxes"][found["body"][mine]]
            owner, true_parts, flagged = self.true_pairs(truth, label)
            true_bodies = truth["bodies"][owner]
            part_iou, _ = overlaps(parts, true_parts)
            body_iou, body_share = overlaps(bodies, true_bodies)
            columns = [np.full(len(mine), label), scores[mine]]
            for subset in self.subsets.values():
                counted = (
                    ~flagged
                    & _lies_in(_height(true_bodies), subset.body_height)
                    & _lies_in(truth["visible_ratio"][owner], subset.visible_ratio)
                    & _lies_in(_height(true_parts), subset.part_height)
                )
                absorbed = (part_iou[:, ~counted] >= IOU) & (body_share[:, ~counted] >= IOU)
                low, high = subset.body_height
                # the released code leaves out parts of the largest height, which would make a miss
                # of a true part that is found with this very height
                kept = (
                    (_height(bodies) >= low / TOLERANCE)
                    & (_height(bodies) < high * TOLERANCE)
                    & _lies_in(_height(parts), subset.part_height)
                )
                result = np.full(len(mine), UNCOUNTED, dtype=np.int8)
                result[kept] = match_greedily(
                    [body_iou[kept][:, counted], part_iou[kept][:, counted]],
                    absorbed[kept],
                    threshold=IOU,
                    inclusive=True,
                )
                counts.append(int(counted.sum()))
                columns.append(result)
            rows.append(np.column_stack(columns))
        return counts, np.concatenate(rows)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float32."""
        counts, _, rows = self.gathered()
        positives = iter(counts.sum(0).tolist())
        values = {"mmr_fppi": FPPI_GRID.float()}
        means = []
        for label, name in enumerate(self.class_names[1:], start=1):
            mine = rows[rows[:, 0] == label]
            mine = by_score(mine, mine[:, 1])
            rates, drawn = [], []
            for result in mine[:, 2:].unbind(1):
                number = next(positives)
                correct = result[result != UNCOUNTED] > 0
                rate = rows.new_tensor(torch.nan)
                drawn.append(torch.full_like(FPPI_GRID, torch.nan))
                if number:
                    curve = miss_rate_curve(correct, number, len(counts))
                    rate = log_average_miss_rate(*curve, reading="up_to")
                    drawn[-1] = miss_rate_up_to(FPPI_GRID, *curve)
                rates.append(rate)
            means.append(torch.stack(rates).nanmean())
            for subset, rate in zip(self.subsets, rates, strict=True):
                values[f"{name}_mmr_{subset}"] = rate.float()
            values[f"{name}_mmr"] = means[-1].float()
            values[f"{name}_miss_matching_rate"] = torch.stack(drawn).float()
        return values | {"mmr": torch.stack(means).nanmean().float()}


def _height(boxes: Array) -> Array:
    return boxes[:, 3] - boxes[:, 1]


def _lies_in(values: Array, interval: tuple[float, float]) -> Mask:
    # as the values were, so that a share of 0.65 is not below 0.65
    low, high = (np.float32(bound) for bound in interval)
    return (values >= low) & (values <= high)
