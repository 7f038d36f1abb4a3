"""GGHL: one-stage detection of oriented objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from framework.data.datasets import Batch
from framework.detection.average_precision import Interpolation
from framework.detection.coordinates import check_coordinates
from framework.detection.detection_samples import DetectionSamples
from framework.detection.detections import Detections, names_of_classes, objects_of, on_cpu
from framework.detection.rotated_average_precision import RotatedMeanAveragePrecision
from framework.detection.tiles import to_whole_image
from framework.distributed.collectives import shared_generator
from framework.figures.score_table import Table
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.training.compatibility import check_fact, check_per_sample
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.lightning_internals import trainer_of
from framework.utilities.packed_copy import copy_packed
from framework.utilities.randomness import global_seed
from modules.gghl.assignment import Assignment, OrientedGaussianAssigner
from modules.gghl.cells import Cells
from modules.gghl.decoding import BOX_CHANNELS, OBJECTNESS, ScoreMode, decode
from modules.gghl.loss import JointOptimizationLoss
from modules.gghl.network import GGHLNetwork

Criterion = nn.CrossEntropyLoss | nn.MultiMarginLoss | ClassificationLoss
STEPS_PER_SIZE = 10
OBJECTS_READ = ("quads", "label", "difficult", "index")
TILES_READ = (
    "image_id",
    "tile_offset",
    "tile_scale",
    "image_quads",
    "image_label",
    "image_difficult",
)
OBJECT_FIELDS = {"image", "quads", "label", "object_weight"}


class GGHL(TrainingModule):
    """Detects convex quadrilaterals, whose training targets are oriented Gaussians.

    A batch holds ``image`` (B, 3, H, W) float32 in [0, 1], ``quads`` (B, M, 4, 2) float32 corners
    in pixels, ``label`` (B, M) int64 with -1 for padding, ``difficult`` (B, M) bool,
    ``object_weight`` (B, M) float32 and ``index`` (B,). Tiles of larger images also hold
    ``image_id`` (B,), ``tile_offset`` (B, 2), ``tile_scale`` (B,), ``tile_extent`` (B, 2) and, to
    be evaluated on whole images, ``image_quads``, ``image_label`` and ``image_difficult``, see
    ``DOTA``.
    Objects are assigned to cells on the CPU, before a batch goes to its device: a GPU would be
    waited for. Whoever changes ``quads`` or ``label`` later takes ``assignment`` out of the batch,
    so that it is made anew.

    ``predictions`` are the logits of every cell's objectness and classes, each beside a 0, so that
    the last axis is a distribution over "yes" and "no".

    Paper: Huang et al., *A General Gaussian Heatmap Label Assignment for Arbitrary-Oriented Object
    Detection*, TIP 2022, arXiv:2109.12848. Where its text and its code differ:
    ``OrientedGaussianAssigner`` and
    ``JointOptimizationLoss``.

    Args:
        num_classes: Number C of classes; in a run default that of the data.
        backbone: Backbone: ``'plain'`` or any timm name with maps at strides 8, 16 and 32;
            ``darknet53`` is the paper's.
        pretrained: Whether to load timm's weights.
        widths: Channels of the plain backbone at strides 2, 4, 8, 16 and 32.
        neck: Neck: ``'top_down'``, the paper's, by concatenation, or ``'pyramid'``, by addition.
        neck_width: Channels of the neck's coarsest level, with ``'pyramid'`` of every level;
            default half of the backbone's last.
        drop_block: Probability of DropBlock in ``'top_down'``; 0.1 in the released code.
        objectness_bias: Objectness logit of an untrained network; 0 in the released code.
        assigner: Assigner of the objects to cells.
        loss: Loss, made from the number of classes.
        criterion: Further loss on the class logits of the cells that learn an object, averaged over
            those of an image; the term ``class``. None for no such term.
        criterion_weight: Weight of the term ``class``.
        multi_scale: Sizes of square training images, one of which is drawn for every 10 steps; none
            leaves images as they are.
        score_threshold: Score that a detection exceeds in evaluation and prediction.
        nms_iou: Overlap above which the worse of two detections of a class goes.
        max_detections: Most detections of an image.
        pre_nms_top_k: Most cells of an image that become boxes, before suppression.
        score_mode: Score of a detection: ``'product'`` of objectness and class, or its square root
            ``'sqrt'``.
        merge_iou: Overlap above which the worse of two detections from tiles of one image goes.
        interpolation: Interpolation of the precision over recall, for ``map`` and ``ap``.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range, or the data has more classes (at ``setup``).

    Example:
        >>> import torch
        >>> from modules import GGHL
        >>> model = GGHL(num_classes=3)
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).shape)
        (2, 84, 13)
    """

    arguments_from_data: Mapping[str, str] = {"num_classes": "num_classes"}
    panels: tuple[Panel, ...] = (
        Panel("Mean average precision", ("map*",), "average over the classes", best="max"),
        Panel("Positive locations", ("train/positives",), "locations in a step", axis=STEP),
    )
    required_fields = ("image", "quads", "label", "index")
    provides = ("per_sample", "predictions", "index")
    predicts_rows = False

    def __init__(
        self,
        num_classes: int | None = None,
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
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None:
            raise ValueError(
                "Neither an argument nor the data says how many classes there are: set "
                "model.num_classes, or in Python use GGHL.for_data(data)."
            )
        check_at_least(0, criterion_weight=criterion_weight)
        check_interval("[0, 1]", score_threshold=score_threshold, nms_iou=nms_iou)
        check_at_least(1, max_detections=max_detections, pre_nms_top_k=pre_nms_top_k)
        if criterion is not None:
            _check_criterion(criterion)
        for size in multi_scale or ():
            if size < 32 or size % 32:
                raise ValueError(f"multi_scale: sizes must be multiples of 32, got {size}.")
        self.num_classes = num_classes
        self.network = GGHLNetwork(
            num_classes=num_classes,
            backbone=backbone,
            pretrained=pretrained,
            widths=widths,
            neck=neck,
            neck_width=neck_width,
            drop_block=drop_block,
            objectness_bias=objectness_bias,
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
        """Check that the data has no more than the model's classes, and coordinates are exact."""
        data = self.datamodule
        check_fact(data, "num_classes", self.num_classes, at_most=True)
        shape = getattr(data, "input_shape", None)
        is_tiled = getattr(data, "is_tiled", False)
        check_coordinates(str(self.trainer.precision), shape, is_moved=is_tiled)
        super().setup(stage)

    def forward(self, image: Tensor) -> Tensor:
        """Return the prediction in each cell, (B, N, 10 + C)."""
        return self.network(image)

    def predictions_of(self, output: Tensor) -> Tensor:
        """Return the logits of objectness and classes beside zeros, (B, N, 1 + C, 2)."""
        logits = output[..., OBJECTNESS:]
        return torch.stack([logits, torch.zeros_like(logits)], -1)

    def forward_inputs(self, batch: Batch) -> tuple[Tensor]:
        """Return the images in the size of this step."""
        return (self._resized(batch["image"]),)

    def prepare_on_cpu(self, batch: Any) -> Any:
        """Assign the objects of a batch that is trained or evaluated."""
        batch = super().prepare_on_cpu(batch)
        trainer = trainer_of(self)
        is_scored = trainer is not None and not trainer.predicting
        if not is_scored or not isinstance(batch, dict) or not batch.keys() >= OBJECT_FIELDS:
            return batch
        size = self._size(batch["image"])
        return {**batch, "assignment": {size: self._assign(batch, size)}}

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms of ``JointOptimizationLoss``, per image."""
        return self._objectives(batch)[0]

    def _objectives(self, batch: Batch) -> tuple[Objectives, Tensor, Cells]:
        if "quads" not in batch:
            raise IncompatibleError(
                "GGHL learns from oriented objects, and the data has none: take RenderedScenes or "
                "DOTA."
            )
        image = self._resized(batch["image"])
        size = (image.shape[-2], image.shape[-1])
        cells = Cells.of(size, self.network.strides, image.device)
        raw = self(image)
        # a guide's batch may have been moved in the size of a training step
        assignment = batch.get("assignment", {}).get(size)
        if assignment is None:
            assignment = self._assign(batch, size).to(image.device)
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

    def _size(self, image: Tensor) -> tuple[int, int]:
        """Return height and width of the images in this step."""
        if not self.multi_scale or not self.training:
            return image.shape[-2], image.shape[-1]
        turn = self.global_step // STEPS_PER_SIZE
        generator = shared_generator(global_seed(), turn, "multi_scale")
        size = self.multi_scale[int(torch.randint(len(self.multi_scale), (), generator=generator))]
        return size, size

    def _resized(self, image: Tensor) -> Tensor:
        """Return images in the size of this step."""
        size = self._size(image)
        if not self.multi_scale or not self.training:
            return image
        if not len(image):
            return image.new_zeros(0, 3, *size)
        return F.interpolate(image, size=size, mode="bilinear", antialias=True)

    def _assign(self, batch: Batch, size: tuple[int, int]) -> Assignment:
        """Return the assignment for images of a size, computed and left on the CPU."""
        quads, label, weight = (batch[name].cpu() for name in ("quads", "label", "object_weight"))
        height, width = batch["image"].shape[-2:]
        if size != (height, width):
            quads = quads * quads.new_tensor([size[1] / width, size[0] / height])
        return self.assigner(quads, label, weight, size, self.num_classes)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives, raw, cells = self._objectives(batch)
        found = on_cpu(self.detect(raw, cells, batch.get("tile_extent")))
        read = {name: batch[name] for name in (*OBJECTS_READ, *TILES_READ) if name in batch}
        truth = copy_packed(read, "cpu")
        image_id = truth.get("image_id", truth["index"])
        self.metrics["precision"].update(
            self._on_whole_images(found, truth), _truth(truth), image_id
        )
        if "samples" in self.metrics:
            self.metrics["samples"].update(batch["image"], found, objects_of(truth), truth["index"])
        return objectives

    def detect(self, raw: Tensor, cells: Cells, extent: Tensor | None = None) -> list[Detections]:
        """Return the detections on each image.

        Args:
            raw: Output of the network, (B, N, 10 + C).
            cells: The N cells.
            extent: Width and height of each image before it was filled up, (B, 2); default the
                whole image.
        """
        return decode(
            raw,
            cells,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            max_detections=self.max_detections,
            pre_nms_top_k=self.pre_nms_top_k,
            score_mode=self.score_mode,
            oriented=self.loss.oriented,
            horizontal=self.loss.horizontal,
            extent=extent,
        )

    def predict_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> list[Detections]:
        """Return the detections on each image, in its pixels."""
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

    def make_metrics(self) -> dict[str, Any]:
        """Return the average precision, and images for a figure."""
        merge_iou = self.merge_iou if getattr(self.datamodule, "is_tiled", False) else None
        metrics: dict[str, Any] = {
            "precision": RotatedMeanAveragePrecision(
                self.num_classes, interpolation=self.interpolation, merge_iou=merge_iou
            )
        }
        shape = getattr(self.datamodule, "input_shape", None)
        if shape is not None:
            metrics["samples"] = DetectionSamples(shape)
        return metrics

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return images with detections and true objects, and precision over recall."""
        from framework.detection.figures import detection_panels, precision_recall

        names = self._names()
        figures = {"precision_recall": precision_recall(values, names)}
        if "samples" in values:
            figures["detections"] = detection_panels(values["samples"], names)
        return figures

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the average precision of each class that has objects."""
        # torchmetrics makes a scalar of a single class's precision
        ap = values["ap_50"].reshape(-1).tolist()
        rows = [
            (name, value) for name, value in zip(self._names(), ap, strict=True) if value == value
        ]
        caption = "Average precision of each class at an overlap of 0.5"
        return {"average_precision": Table(caption, ("class", "AP50"), rows)}

    def _names(self) -> Sequence[str]:
        return names_of_classes(self, self.datamodule)


def _check_criterion(criterion: nn.Module) -> None:
    refused = {"index", "group", "features", "inputs", "forward"} & set(
        getattr(criterion, "needs", ())
    )
    if refused:
        raise IncompatibleError(
            f"{type(criterion).__name__} needs `{min(refused)}`, which cells do not have."
        )
    check_per_sample(criterion, "GGHL", unit="cell")


def _truth(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the true objects of each image; for tiles, those of the whole image of the first."""
    prefix = "image_" if "image_quads" in batch else ""
    return objects_of(batch, prefix)
