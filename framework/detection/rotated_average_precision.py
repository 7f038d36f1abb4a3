"""Mean average precision of oriented detections, by the rules of DOTA's development kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.detection.average_precision import (
    Interpolation,
    average_precision,
    interpolated_precision,
    precision_recall,
    recall_grid,
)
from framework.detection.detections import on_cpu
from framework.detection.rotated import rotated_nms
from framework.detection.rotated.iou import iou_of_pairs
from framework.detection.rotated.overlap_candidates import overlapping_pairs
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least, check_interval

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_CURVE_POINTS = 101


class RotatedMeanAveragePrecision(RowMetric):
    """Average precision of detected quadrilaterals, per class and in the mean over classes.

    A detection takes the object of its class and image with the largest IoU, found already or not.
    If that exceeds the threshold, the detection counts as right if it is the first one of this
    object, as wrong if not, and not at all if the object is marked difficult; otherwise it is
    wrong. Difficult objects need not be found.

    ``compute`` returns

    * ``map_50``, ``map_75`` and ``map``, the mean over ``iou_thresholds``;
    * ``map_50_voc07`` and ``map_50_voc12``, whatever ``interpolation`` is;
    * ``ap_50`` (C,);
    * ``precision_50`` and ``recall_50`` (C, 101): the curve, with the precision that never rises.

    A class without objects to be found is NaN and does not count in the mean. Detections of equal
    score are ordered by image and coordinates, so that batches, tiles and ranks do not matter.
    Detections are kept and compared on the CPU, wherever they were made.

    Paper: Ding et al., Object Detection in Aerial Images: A Large-Scale Benchmark and Challenges,
    TPAMI 2021, arXiv:2102.12219; the rules are those of its evaluation code, which differ from
    PASCAL VOC's only in the oriented overlap. Papers on DOTA state either ``voc07`` or ``voc12``.

    Args:
        num_classes: Number of classes C.
        iou_thresholds: IoU thresholds of ``map``, in (0, 1).
        interpolation: Integration rule: ``'voc07'``, ``'voc12'`` or ``'coco101'``, see
            ``average_precision``.
        merge_iou: IoU above which detections of one class and image suppress one another, where an
            image arrives in overlapping tiles; None keeps all.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: an argument is out of range, or an update has other shapes or labels.

    Example:
        >>> import torch
        >>> from framework.detection.rotated_average_precision import RotatedMeanAveragePrecision
        >>> square = torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
        >>> objects = {"boxes": torch.stack([square, square + 30]), "labels": torch.tensor([0, 1])}
        >>> found = {"boxes": square[None] + 1, "labels": torch.tensor([0])}
        >>> metric = RotatedMeanAveragePrecision(num_classes=3)
        >>> metric.update([found | {"scores": torch.tensor([0.9])}], [objects], torch.tensor([0]))
        >>> values = metric.compute()
        >>> values["map_50"], values["ap_50"]
        (tensor(0.5000), tensor([1., 0., nan]))
    """

    higher_is_better = True

    def __init__(
        self,
        num_classes: int,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        interpolation: Interpolation = "voc12",
        merge_iou: float | None = None,
        **kwargs: Any,
    ) -> None:
        empty = {
            "boxes": torch.zeros(0, 4, 2),
            "scores": torch.zeros(0),
            "labels": torch.zeros(0, dtype=torch.int64),
            "image": torch.zeros(0, dtype=torch.int64),
            "target_boxes": torch.zeros(0, 4, 2),
            "target_labels": torch.zeros(0, dtype=torch.int64),
            "target_difficult": torch.zeros(0, dtype=torch.bool),
            "target_image": torch.zeros(0, dtype=torch.int64),
        }
        super().__init__(empty, **kwargs)
        check_at_least(1, num_classes=num_classes)
        if not iou_thresholds or not all(0 < t < 1 for t in iou_thresholds):
            raise ValueError(f"iou_thresholds must be in (0, 1), got {list(iou_thresholds)}.")
        check_interval("[0, 1]", merge_iou=merge_iou)
        no_detections = torch.zeros(0, dtype=torch.float64)
        average_precision(no_detections, no_detections, interpolation)
        self.num_classes = num_classes
        self.iou_thresholds = tuple(iou_thresholds)
        self.interpolation = interpolation
        self.merge_iou = merge_iou

    def update(
        self,
        preds: Sequence[dict[str, Tensor]],
        target: Sequence[dict[str, Tensor]],
        image_id: Tensor,
    ) -> None:
        """Add a batch of images, or of tiles in coordinates of their whole image.

        Args:
            preds: Detections of each of B images: ``boxes`` (n, 4, 2), ``scores`` (n,), ``labels``
                (n,) int64.
            target: Objects of each image: ``boxes`` (m, 4, 2), ``labels`` (m,) int64 and, where
                objects may be difficult, ``difficult`` (m,) bool. Of an image in tiles one tile
                brings them all.
            image_id: (B,) int64 number of the image, over all ranks.
        """
        if not len(preds) == len(target) == len(image_id):
            raise ValueError(
                "preds, target and image_id must be as many, got "
                f"{len(preds)}, {len(target)} and {len(image_id)}."
            )
        preds, target = on_cpu(preds), on_cpu(target)
        for found, objects, image in zip(preds, target, image_id.tolist(), strict=True):
            labels, scores = found["labels"], found["scores"]
            self._add("", found["boxes"], image, scores=scores, labels=labels)
            labels = objects["labels"]
            difficult = objects.get("difficult", torch.zeros_like(labels, dtype=torch.bool))
            self._add("target_", objects["boxes"], image, labels=labels, difficult=difficult)

    def _add(self, prefix: str, boxes: Tensor, image: int, **columns: Tensor) -> None:
        for name, column in columns.items():
            if boxes.shape[1:] != (4, 2) or column.shape != boxes.shape[:1]:
                raise ValueError(
                    f"boxes must be (n, 4, 2) and {name} (n,), got {tuple(boxes.shape)} and "
                    f"{tuple(column.shape)}."
                )
        labels = columns["labels"]
        if bool(((labels < 0) | (labels >= self.num_classes)).any()):
            raise ValueError(
                f"Labels must be in 0..{self.num_classes - 1}, got "
                f"{int(labels.min())}..{int(labels.max())}."
            )
        columns["image"] = torch.full_like(labels, image, dtype=torch.int64)
        for name, column in {"boxes": boxes, **columns}.items():
            state = getattr(self, prefix + name)
            state.append(column.detach().to(self._empty[prefix + name].dtype))

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, float32."""
        columns = {name: self.joined(name) for name in self._empty}
        ranking = _ranking(columns)
        found = {name: column[ranking] for name, column in _take(columns, "").items()}
        if self.merge_iou is not None:
            group = found["image"] * self.num_classes + found["labels"]
            kept = rotated_nms(found["boxes"], found["scores"], self.merge_iou, group)
            found = {name: column[kept] for name, column in found.items()}
        objects = _take(columns, "target_")
        overlap, nearest = self._nearest_objects(found, objects)

        curves = {
            threshold: self._curves(found["labels"], objects, overlap > threshold, nearest)
            for threshold in sorted({0.5, 0.75, *self.iou_thresholds})
        }
        device = overlap.device
        ap = {
            threshold: self._per_class(curve, self.interpolation, device)
            for threshold, curve in curves.items()
        }
        grid = recall_grid(_CURVE_POINTS, device)
        nothing = torch.full_like(grid, torch.nan)
        precision = [
            nothing if curve is None else interpolated_precision(*curve, grid)
            for curve in curves[0.5]
        ]
        values = {
            "map_50": ap[0.5].nanmean(),
            "map_75": ap[0.75].nanmean(),
            "map": torch.stack([ap[t] for t in self.iou_thresholds]).nanmean(),
            "map_50_voc07": self._per_class(curves[0.5], "voc07", device).nanmean(),
            "map_50_voc12": self._per_class(curves[0.5], "voc12", device).nanmean(),
            "ap_50": ap[0.5],
            "precision_50": torch.stack(precision),
            "recall_50": grid.repeat(self.num_classes, 1),
        }
        return {name: value.float() for name, value in values.items()}

    def _nearest_objects(
        self, found: dict[str, Tensor], objects: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return for every detection the largest IoU and the first object that has it."""
        a, b = found["boxes"].double(), objects["boxes"].double()
        finite_a, finite_b = (x.isfinite().flatten(1).all(1).nonzero().squeeze(1) for x in (a, b))
        i, j = overlapping_pairs(
            a[finite_a],
            b[finite_b],
            *self._common_groups(
                (found["image"] * self.num_classes + found["labels"])[finite_a],
                (objects["image"] * self.num_classes + objects["labels"])[finite_b],
            ),
        )
        i, j = finite_a[i], finite_b[j]
        values = iou_of_pairs(a[i], b[j])
        best = a.new_zeros(len(a)).scatter_reduce(0, i, values, "amax")
        tied = values == best[i]
        nearest = torch.full_like(found["labels"], len(b))
        return best, nearest.scatter_reduce(0, i[tied], j[tied], "amin")

    @staticmethod
    def _common_groups(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        group = torch.cat([a, b]).unique(return_inverse=True)[1]
        return group[: len(a)], group[len(a) :]

    def _curves(
        self, labels: Tensor, objects: dict[str, Tensor], hit: Tensor, nearest: Tensor
    ) -> list[tuple[Tensor, Tensor] | None]:
        """Return recall and precision of every class, None where nothing is to be found."""
        count, easy = len(objects["labels"]), ~objects["difficult"]
        place = torch.arange(len(hit), device=hit.device)
        first = torch.full((count,), len(hit), device=hit.device)
        first = first.scatter_reduce(0, nearest[hit], place[hit], "amin")
        correct = torch.zeros_like(hit)
        correct[hit] = first[nearest[hit]] == place[hit]
        counted = torch.ones_like(hit)
        counted[hit] = easy[nearest[hit]]
        positives = torch.bincount(objects["labels"][easy], minlength=self.num_classes).tolist()
        return [
            precision_recall(correct[counted & (labels == c)], n) if n else None
            for c, n in enumerate(positives)
        ]

    @staticmethod
    def _per_class(
        curves: list[tuple[Tensor, Tensor] | None],
        interpolation: Interpolation,
        device: torch.device,
    ) -> Tensor:
        nothing = torch.tensor(torch.nan, dtype=torch.float64, device=device)
        return torch.stack(
            [nothing if c is None else average_precision(*c, interpolation) for c in curves]
        )


def _take(columns: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the columns of detections, or of targets, under their plain names."""
    names = ("boxes", "scores", "labels", "image", "difficult")
    return {n: columns[prefix + n] for n in names if prefix + n in columns}


def _ranking(columns: dict[str, Tensor]) -> Tensor:
    """Return the order of detections by descending score, then image, label and coordinates."""
    keys = [*columns["boxes"].flatten(1).flip(1).unbind(1), columns["labels"], columns["image"]]
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order[columns["scores"][order].argsort(descending=True, stable=True)]
