"""GGHL: one-stage detection of oriented objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.detection.average_precision import Interpolation
from framework.detection.detection_samples import DetectionSamples
from framework.detection.detections import Detections, names_of_classes, objects_of
from framework.detection.rotated_average_precision import RotatedMeanAveragePrecision
from framework.detection.tiles import to_whole_image
from framework.distributed.collectives import shared_generator
from framework.gradients.combiner import GradientCombiner
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.module import TrainingModule
from framework.utilities.randomness import global_seed
from modules.gghl.assignment import Assignment, OrientedGaussianAssigner
from modules.gghl.cells import Cells
from modules.gghl.decoding import BOX_CHANNELS, OBJECTNESS, ScoreMode, decode
from modules.gghl.loss import JointOptimizationLoss
from modules.gghl.network import GGHLNetwork

Criterion = nn.CrossEntropyLoss | nn.MultiMarginLoss | ClassificationLoss
STEPS_PER_SIZE = 10


class GGHL(TrainingModule):
    """Detects convex quadrilaterals, whose training targets are oriented Gaussians.

    A batch holds ``image`` (B, 3, H, W) float32 in [0, 1], ``quads`` (B, M, 4, 2) float32 corners
    in pixels, ``label`` (B, M) int64 with -1 for padding, ``difficult`` (B, M) bool,
    ``object_weight`` (B, M) float32 and ``index`` (B,). Tiles of larger images also hold
    ``image_id`` (B,), ``tile_offset`` (B, 2), ``tile_scale`` (B,), ``tile_extent`` (B, 2) and, to
    be evaluated on whole images, ``image_quads``, ``image_label`` and ``image_difficult``, see
    ``DOTA``.
    ``predictions`` are the logits of every cell's objectness and classes, each beside a 0, so that
    the last axis is a distribution over "yes" and "no".

    Paper: Huang et al., *A General Gaussian Heatmap Label Assignment for Arbitrary-Oriented Object
    Detection*, TIP 2022, arXiv:2109.12848. Where its text and its code differ:
    ``OrientedGaussianAssigner`` and
    ``JointOptimizationLoss``.

    Args:
        num_classes: C.
        backbone: ``'plain'`` or any timm name with maps at strides 8, 16 and 32; ``darknet53`` is
            the paper's.
        pretrained: load timm's weights.
        widths: channels of the plain backbone at strides 2, 4, 8, 16 and 32.
        neck: ``'top_down'``, the paper's, by concatenation, or ``'pyramid'``, by addition.
        neck_width: channels of the neck's coarsest level, with ``'pyramid'`` of every level;
            default half of the backbone's last.
        drop_block: probability of DropBlock in ``'top_down'``; its noise is drawn on each rank.
        objectness_bias: the objectness logit of an untrained network; 0 in the released code.
        assigner: which cells learn which object.
        loss: from the number of classes to the loss.
        criterion: a further loss on the class logits of the cells that learn an object, averaged
            over those of an image; the term ``class``.
        criterion_weight: its weight.
        multi_scale: sizes of square training images, one of which is drawn for every 10 steps; none
            leaves images as they are.
        score_threshold: of detections in evaluation and prediction.
        nms_iou: overlap above which the worse of two detections of a class goes.
        max_detections: per image.
        pre_nms_top_k: Cells per image that become boxes, before suppression.
        score_mode: ``'product'`` of objectness and class, or its square root ``'sqrt'``.
        merge_iou: overlap above which the worse of two detections from tiles of one image goes.
        interpolation: of the average precision over recall, for ``map`` and ``ap``.
        optimizer: from parameter groups to an optimizer.
        lr_scheduler: from an optimizer to a schedule.
        sync_batchnorm: share batch-norm statistics between ranks.
        gradient_combiner: how the gradients of several terms become one.

    Raises:
        ValueError: an argument out of its range, or data with more classes (at ``setup``).

    Example:
        >>> import torch
        >>> model = GGHL(num_classes=3)
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).shape)
        (2, 84, 13)
    """

    required_fields = ("image", "quads", "label", "index")
    provides = ("per_sample", "predictions", "index")
    predicts_rows = False

    def __init__(
        self,
        num_classes: int = 3,
        backbone: str = "plain",
        pretrained: bool = False,
        widths: Sequence[int] = (16, 32, 48, 64, 96),
        neck: Literal["top_down", "pyramid"] = "pyramid",
        neck_width: int | None = None,
        drop_block: float = 0.0,
        objectness_bias: float = -4.0,
        assigner: OrientedGaussianAssigner | None = None,
        loss: Callable[[int], JointOptimizationLoss] = JointOptimizationLoss,
        criterion: Criterion | None = None,
        criterion_weight: float = 1.0,
        multi_scale: Sequence[int] | None = None,
        score_threshold: float = 0.005,
        nms_iou: float = 0.45,
        max_detections: int = 500,
        pre_nms_top_k: int = 2000,
        score_mode: ScoreMode = "product",
        merge_iou: float = 0.3,
        interpolation: Interpolation = "voc12",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        sync_batchnorm: bool = True,
        gradient_combiner: GradientCombiner | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, sync_batchnorm, gradient_combiner)
        if criterion_weight < 0:
            raise ValueError(f"criterion_weight must not be negative, got {criterion_weight}.")
        if criterion is not None:
            _check_criterion(criterion)
        for size in multi_scale or ():
            if size < 32 or size % 32:
                raise ValueError(f"multi_scale: sizes must be multiples of 32, got {size}.")
        for name, value in (("score_threshold", score_threshold), ("nms_iou", nms_iou)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")
        for name, number in (("max_detections", max_detections), ("pre_nms_top_k", pre_nms_top_k)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}.")
        self.num_classes = num_classes
        self.network = GGHLNetwork(
            num_classes, backbone, pretrained, widths, neck, neck_width, drop_block, objectness_bias
        )
        self.assigner = OrientedGaussianAssigner() if assigner is None else assigner
        if self.assigner.strides != self.network.strides:
            raise ValueError(
                f"The assigner's strides {self.assigner.strides} are not the network's "
                f"{self.network.strides}."
            )
        self.loss = loss(num_classes)
        self.criterion = criterion
        self.criterion_weight = criterion_weight
        self.multi_scale = tuple(multi_scale or ())
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections
        self.pre_nms_top_k = pre_nms_top_k
        self.score_mode: ScoreMode = score_mode
        self.merge_iou = merge_iou
        self.interpolation: Interpolation = interpolation

    def setup(self, stage: str) -> None:
        """Refuse data that says of itself that it does not fit."""
        data = getattr(self.trainer, "datamodule", None)
        classes = getattr(data, "num_classes", None)
        if classes is not None and classes > self.num_classes:
            raise IncompatibleError(
                f"{type(data).__name__} has {classes} classes, but the model has "
                f"{self.num_classes}: set model.num_classes."
            )
        super().setup(stage)

    def forward(self, image: Tensor) -> Tensor:
        """Return what is predicted in each cell (B, N, 10 + C)."""
        return self.network(image)

    def predictions_of(self, output: Tensor) -> Tensor:
        """Return the logits of objectness and classes beside zeros, (B, N, 1 + C, 2)."""
        logits = output[..., OBJECTNESS:]
        return torch.stack([logits, torch.zeros_like(logits)], -1)

    def forward_inputs(self, batch: Batch) -> tuple[Tensor]:
        """Return the images in the size of this step."""
        return (self._resized(batch)[0],)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms of ``JointOptimizationLoss``, per image."""
        return self._objectives(batch)[0]

    def _objectives(self, batch: Batch) -> tuple[Objectives, Tensor, Cells]:
        if "quads" not in batch:
            raise IncompatibleError(
                "GGHL learns from oriented objects, and the data has none: take RenderedScenes or "
                "DOTA."
            )
        image, quads = self._resized(batch)
        size = (image.shape[-2], image.shape[-1])
        cells = Cells.of(size, self.network.strides, image.device)
        raw = self(image)
        assignment = self.assigner(
            quads, batch["label"], batch["object_weight"], size, self.num_classes
        )
        objectives = Objectives(
            per_sample=self.loss(raw, cells, assignment),
            weights=dict(self.loss.weights),
            predictions=self.predictions_of(raw),
            index=batch.get("index"),
        )
        if self.criterion is not None:
            objectives.per_sample["class"] = self._class_term(raw, batch, assignment)
            objectives.weights["class"] = self.criterion_weight
        positives = assignment.positives.sum().float() / max(1, len(image))
        objectives.logs["positives"] = positives
        return objectives, raw, cells

    def _class_term(self, raw: Tensor, batch: Batch, assignment: Assignment) -> Tensor:
        """Return the mean of the criterion over the cells of each image that learn an object."""
        assert self.criterion is not None
        image = assignment.image
        of_cells = Objectives(
            predictions=raw[image, assignment.cell, BOX_CHANNELS:],
            targets=batch["label"][image, assignment.object],
        )
        self.add_term(of_cells, "class", self.criterion)
        value = of_cells.per_sample["class"]
        share = assignment.mask * assignment.object_weight
        number = assignment.positives.sum(1).clamp(min=1)
        share = (share / number[image]).to(value.dtype)
        # a sum over rows in random order would not be the same twice on a GPU
        cells = value.new_zeros(raw.shape[:2]) + 0 * raw.sum(-1)
        return cells.index_put((image, assignment.cell), share * value).sum(1)

    def _resized(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return images and corners in the size of this step."""
        image: Tensor = batch["image"]
        quads: Tensor = batch["quads"]
        if not self.multi_scale or not self.training:
            return image, quads
        turn = self.global_step // STEPS_PER_SIZE
        generator = shared_generator(global_seed(), turn, "multi_scale")
        size = self.multi_scale[int(torch.randint(len(self.multi_scale), (), generator=generator))]
        height, width = image.shape[-2:]
        scale = quads.new_tensor([size / width, size / height])
        if len(image):
            image = F.interpolate(image, size=(size, size), mode="bilinear", antialias=True)
        else:
            image = image.new_zeros(0, 3, size, size)
        return image, quads * scale

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives, raw, cells = self._objectives(batch)
        found = self.detect(raw, cells, batch.get("tile_extent"))
        image_id = batch.get("image_id", batch["index"])
        self.metrics["precision"].update(
            self._on_whole_images(found, batch), _truth(batch), image_id
        )
        if "samples" in self.metrics:
            self.metrics["samples"].update(batch["image"], found, objects_of(batch), batch["index"])
        return objectives

    def detect(self, raw: Tensor, cells: Cells, extent: Tensor | None = None) -> list[Detections]:
        """Return what is detected on each image, from the network's output (B, N, 10 + C).

        ``extent`` (B, 2) is the width and height that an image has before it was filled up.
        """
        return decode(
            raw,
            cells,
            self.score_threshold,
            self.nms_iou,
            self.max_detections,
            self.pre_nms_top_k,
            self.score_mode,
            self.loss.oriented,
            self.loss.horizontal,
            extent,
        )

    def predict_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> list[Detections]:
        """Return what is detected on each image, in its pixels."""
        batch = self.fields_of(batch, predicting=True)
        image = batch["image"]
        size = (image.shape[-2], image.shape[-1])
        cells = Cells.of(size, self.network.strides, image.device)
        return self.detect(self(image), cells, batch.get("tile_extent"))

    def _on_whole_images(self, found: list[Detections], batch: Batch) -> list[Detections]:
        if "tile_offset" not in batch:
            return found
        places = zip(found, batch["tile_offset"], batch["tile_scale"], strict=True)
        return [
            {**one, "boxes": to_whole_image(one["boxes"], offset, scale)}
            for one, offset, scale in places
        ]

    def make_metrics(self) -> MetricCollection:
        """Return the average precision, and images for a figure."""
        data: Any = getattr(self.trainer, "datamodule", None)
        merge_iou = self.merge_iou if getattr(data, "is_tiled", False) else None
        metrics: dict[str, Any] = {
            "precision": RotatedMeanAveragePrecision(
                self.num_classes, interpolation=self.interpolation, merge_iou=merge_iou
            )
        }
        shape = getattr(data, "input_shape", None)
        if shape is not None:
            metrics["samples"] = DetectionSamples(shape)
        return MetricCollection(metrics, compute_groups=False)

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return images with what was and what should be found, and precision over recall."""
        from framework.detection.figures import detection_panels, precision_recall

        data = getattr(self.trainer, "datamodule", None)
        names = names_of_classes(getattr(data, "class_names", None), self.num_classes)
        figures = {"precision_recall": precision_recall(values, names)}
        if "samples" in values:
            figures["detections"] = detection_panels(values["samples"], names)
        return figures


def _check_criterion(criterion: nn.Module) -> None:
    refused = {"index", "group", "features", "inputs", "forward"} & set(
        getattr(criterion, "needs", ())
    )
    if refused:
        raise IncompatibleError(
            f"{type(criterion).__name__} needs `{min(refused)}`, which cells do not have."
        )
    if getattr(criterion, "batch_coupled", False):
        raise IncompatibleError(
            f"{type(criterion).__name__} is one number for a batch, and GGHL needs one per cell."
        )


def _truth(batch: Batch) -> list[dict[str, Tensor]]:
    """Return what should be found on each image; on tiles, on the whole image of its first."""
    prefix = "image_" if "image_quads" in batch else ""
    return objects_of(batch, prefix)
