"""BPJDet: bodies and the parts that belong to them, by one detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Unpack, get_args

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.data.datasets import Batch
from framework.detection.body_parts.association import BodyPartAssociator
from framework.detection.body_parts.crowdhuman_average_precision import CrowdHumanAveragePrecision
from framework.detection.body_parts.joint_average_precision import JointAveragePrecision
from framework.detection.body_parts.miss_matching_rate import SUBSETS, MissMatchingRate
from framework.detection.body_parts.parts_average_precision import PartsAveragePrecision
from framework.detection.body_parts.people import NAMES, people_of
from framework.detection.body_parts.people_samples import PeopleSamples
from framework.detection.coordinates import check_coordinates
from framework.detection.detections import names_of_classes, on_cpu
from framework.detection.tiles import to_whole_image
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.optim.parameter_groups import decay_norm_bias_groups
from framework.runs.panels import STEP, Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least, check_interval, check_one_of
from framework.utilities.lightning_internals import trainer_of
from framework.utilities.packed_copy import copy_packed
from modules.bpjdet.anchor_grid import BOX_CHANNELS, OBJECTNESS, AnchorGrid, check_anchors
from modules.bpjdet.anchors import P6_ANCHORS, fit_anchors
from modules.bpjdet.assignment import (
    STATES_PER_SLOT,
    AnchorAssigner,
    Assignment,
    unreachable_points,
)
from modules.bpjdet.decoding import contact_states, detect
from modules.bpjdet.loss import ExtendedObjectLoss
from modules.bpjdet.network import STRIDES, BPJDetNetwork, Size

Protocol = Literal["crowdhuman", "citypersons", "bodyhands", "cocohumanparts"]
PLACES = ("image_size", "letterbox_offset", "letterbox_scale")
USUAL_SIZE = 640


class BPJDet(TrainingModule):
    """Detects bodies and their parts, each body with points where the centers of its parts are.

    A batch holds ``image`` (B, 3, H, W) float32 in [0, 1], H and W multiples of the coarsest
    stride, the fields of ``People`` padded to (B, M, ...), ``num_people`` (B,) and ``index`` (B,),
    see ``PeopleData``; with contact states also ``states`` (B, M, K, 4) int64: 0, 1 or 2 for
    unsure. Label 0 is the body. People are assigned to predictions on the CPU, before a batch goes
    to its device: a GPU would be waited for. Whoever changes them later takes ``assignment`` out
    of the batch, so that it is made anew.

    Detections of an image are ``boxes`` (n, 4), left, top, right and bottom in pixels of the
    original image, ``scores`` (n,) descending, ``labels`` (n,), ``points`` (n, K, 2), and of each
    part its ``body`` (n,), a row, and its ``slot`` (n,) there, -1 for none; with contact states
    also ``states`` (n, 4).

    ``predictions`` are the logits of every prediction's objectness and classes, each beside a 0, so
    that the last axis is a distribution over "yes" and "no".

    Paper: Zhou et al., *BPJDet: Extended Object Representation for Generic Body-Part Joint
    Detection*, TPAMI 2024, arXiv:2304.10765. Its loss is multiplied by the number of images of a
    batch, so that its learning rates are those of sums; here it is a mean. The anchor-free variants
    of the paper are not implemented.

    Args:
        num_classes: Number C of classes, the body's among them; in a run default that of the data.
        slot_classes: Class of the part in each of a body's K slots; in a run default that of the
            data.
        input_shape: Shape (3, H, W) of the training images, which the weights of terms depend on;
            in a run default that of the data.
        size: Size of the network: ``'tiny'``, ``'nano'``, or the paper's ``'s'``, ``'m'``, ``'l'``.
        backbone: Any timm name with maps at strides 8, 16 and 32; None for YOLOv5's.
        pretrained: Whether to load timm's weights.
        strides: Strides of the levels, (8, 16, 32, 64) or (8, 16, 32).
        anchors: Width and height in pixels of the anchors of each level; None for the published
            ones.
        auto_anchor: Whether the anchors are fitted to the training set where less than 0.98 of its
            objects could be found with them.
        num_states: Number of contact states, 4 for each of K slots; 0 for none.
        loss: Loss, made from the numbers of classes, slots and levels, the size of the images and
            the number of contact states.
        associator: Association of parts with bodies; None for the paper's.
        body_score: Score that a body exceeds.
        body_iou: Overlap above which the worse of two bodies goes.
        part_score: Score that a part exceeds.
        part_iou: Overlap above which the worse of two parts of a class goes.
        max_detections: Most bodies, and most parts, of an image.
        protocols: Benchmarks whose metrics are reported, of ``'crowdhuman'``, ``'citypersons'``,
            ``'bodyhands'`` and ``'cocohumanparts'``; of the first two, whose metrics have the same
            names, one.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: An argument is out of its range, or the data has other classes or slots (at
            ``setup``).

    Example:
        >>> import torch
        >>> from modules import BPJDet
        >>> model = BPJDet(num_classes=3, slot_classes=(1, 2, 2), size="tiny", strides=(8, 16, 32))
        >>> tuple(model(torch.zeros(2, 3, 64, 64)).shape)
        (2, 252, 14)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "slot_classes": "slot_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Miss matching rate", ("mmr",), "average over the part classes", best="min"),
        Panel("Joint average precision", ("joint_ap",), "average over the classes", best="max"),
        Panel("Positive predictions", ("train/positives",), "predictions in a step", axis=STEP),
    )
    required_fields = ("image", *NAMES, "num_people", "index")
    provides = ("per_sample", "predictions", "index")
    predicts_rows = False
    anchors: Tensor

    def __init__(
        self,
        num_classes: int | None = None,
        slot_classes: Sequence[int] | None = None,
        input_shape: Sequence[int] | None = None,
        size: Size = "s",
        backbone: str | None = None,
        pretrained: bool = False,
        strides: Sequence[int] = STRIDES,
        anchors: Sequence[Sequence[Sequence[float]]] | None = None,
        auto_anchor: bool = True,
        num_states: int = 0,
        loss: Callable[[int, int, int, int, int], ExtendedObjectLoss] = ExtendedObjectLoss,
        associator: BodyPartAssociator | None = None,
        body_score: float = 0.05,
        body_iou: float = 0.6,
        part_score: float = 0.1,
        part_iou: float = 0.3,
        max_detections: int = 300,
        protocols: Sequence[Protocol] = ("crowdhuman", "bodyhands"),
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None or slot_classes is None:
            raise ValueError(
                "Neither arguments nor the data say which classes and slots there are: set "
                "model.num_classes and model.slot_classes, or in Python use BPJDet.for_data(data)."
            )
        _check_slots(slot_classes, num_classes)
        _check_states(num_states, len(slot_classes))
        check_interval("[0, 1]", body_score=body_score, body_iou=body_iou)
        check_interval("[0, 1]", part_score=part_score, part_iou=part_iou)
        check_at_least(1, max_detections=max_detections)
        for protocol in protocols:
            check_one_of(get_args(Protocol), protocols=protocol)
        if {"crowdhuman", "citypersons"} <= {*protocols}:
            raise ValueError(
                "protocols can have crowdhuman or citypersons, whose metrics have the same names, "
                f"got {list(protocols)}."
            )
        image_size = USUAL_SIZE if input_shape is None else max(input_shape[1:])
        self.num_classes = num_classes
        self.slot_classes = tuple(slot_classes)
        self.strides = tuple(strides)
        self.num_states = num_states
        known = P6_ANCHORS[: len(self.strides)] if anchors is None else anchors
        self.register_buffer("anchors", torch.tensor(known, dtype=torch.float32))
        check_anchors(self.anchors, self.strides)
        self.auto_anchor = auto_anchor
        self.network = BPJDetNetwork(
            num_classes=num_classes,
            num_slots=len(self.slot_classes),
            num_anchors=self.anchors.shape[1],
            size=size,
            backbone=backbone,
            pretrained=pretrained,
            strides=self.strides,
            num_states=num_states,
            image_size=image_size,
        )
        self.loss = loss(
            num_classes, len(self.slot_classes), len(self.strides), image_size, num_states
        )
        self.associator = BodyPartAssociator() if associator is None else associator
        self.body_score = body_score
        self.body_iou = body_iou
        self.part_score = part_score
        self.part_iou = part_iou
        self.max_detections = max_detections
        self.protocols = tuple(protocols)
        self._assigner: AnchorAssigner | None = None

    @property
    def decoding_facts(self) -> dict[str, Any]:  # type: ignore[override]
        """Classes of the slots, strides, and anchors, which may be fitted, for ``decode``."""
        return {
            "slot_classes": list(self.slot_classes),
            "strides": list(self.strides),
            "anchors": self.anchors.tolist(),
        }

    def setup(self, stage: str) -> None:
        """Check that the data has the model's classes and slots, and fit anchors to it."""
        data = self.datamodule
        check_fact(data, "num_classes", self.num_classes)
        slots = getattr(data, "slot_classes", None)
        if slots is not None and tuple(slots) != self.slot_classes:
            raise IncompatibleError(
                f"The slots of the data have the classes {list(slots)}, and those of the model "
                f"{list(self.slot_classes)}: leave model.slot_classes out, or set it to the former."
            )
        shape = getattr(data, "input_shape", None)
        is_letterboxed = getattr(data, "is_letterboxed", False)
        check_coordinates(str(self.trainer.precision), shape, is_moved=is_letterboxed)
        stride = self.strides[-1]
        if shape is not None and any(side % stride for side in shape[1:]):
            raise IncompatibleError(
                f"The images of the data have {shape[1]} x {shape[2]} pixels, and BPJDet takes "
                f"multiples of {stride}: set data.image_size to {_multiple(shape[1], stride)}."
            )
        super().setup(stage)
        # a checkpoint's anchors are restored later
        if stage == "fit" and self.auto_anchor and hasattr(data, "object_sizes"):
            self.anchors.copy_(fit_anchors(data.object_sizes(), self.anchors))
            self._assigner = None

    def forward(self, image: Tensor) -> Tensor:
        """Return the predictions, (B, N, 5 + C + 2 K + S)."""
        return self.network(image)

    def predictions_of(self, output: Tensor) -> Tensor:
        """Return the logits of objectness and classes beside zeros, (B, N, 1 + C, 2)."""
        logits = output[..., OBJECTNESS : BOX_CHANNELS + self.num_classes]
        return torch.stack([logits, torch.zeros_like(logits)], -1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return weights with weight decay, and norms and biases without."""
        return decay_norm_bias_groups(self)

    def prepare_on_cpu(self, batch: Any) -> Any:
        """Assign the people of a batch that is trained or evaluated."""
        batch = super().prepare_on_cpu(batch)
        trainer = trainer_of(self)
        is_scored = trainer is not None and not trainer.predicting
        if not is_scored or not isinstance(batch, dict) or not batch.keys() >= {"image", *NAMES}:
            return batch
        return {**batch, "assignment": self._assign(batch)}

    def _assign(self, batch: Batch) -> Assignment:
        """Return the assignment of a batch's people, computed and left on the CPU."""
        if self._assigner is None:
            self._assigner = AnchorAssigner(self.anchors, self.strides)
        names = [*NAMES, "num_people", *(["states"] if self.num_states else [])]
        people = {name: batch[name].cpu() for name in names}
        height, width = batch["image"].shape[-2:]
        return self._assigner(people, self.slot_classes, (height, width))

    def _grid(self, image: Tensor) -> AnchorGrid:
        height, width = image.shape[-2:]
        return AnchorGrid.of((height, width), self.anchors, self.strides)

    def objectives(self, batch: Batch) -> Objectives:
        """Return the terms of ``ExtendedObjectLoss``, per image."""
        return self._objectives(batch)[0]

    def _objectives(self, batch: Batch) -> tuple[Objectives, Tensor]:
        if "bodies" not in batch:
            raise IncompatibleError(
                "BPJDet learns from people and their parts, and the data has none: take "
                "RenderedCrowds or BodyParts."
            )
        image = batch["image"]
        raw = self(image)
        assignment = batch.get("assignment")
        if assignment is None:
            assignment = self._assign(batch).to(image.device)
        objectives = Objectives(
            per_sample=self.loss(raw, self._grid(image), assignment),
            weights=dict(self.loss.weights),
            predictions=self.predictions_of(raw),
            index=batch.get("index"),
        )
        images = max(1, len(image))
        exact = torch.promote_types(raw.dtype, torch.float32)
        objectives.logs["positives"] = assignment.positives.sum().to(exact) / images
        objectives.logs["unreachable"] = unreachable_points(assignment).to(exact) / images
        return objectives, raw

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives, raw = self._objectives(batch)
        image = batch["image"]
        read = {
            name: batch[name] for name in (*NAMES, "num_people", "index", *PLACES) if name in batch
        }
        truth = copy_packed(read, "cpu")
        detected = on_cpu(self.detect(image, raw))
        found = self.associated(detected, truth)
        people = _in_original(people_of(truth), truth, ("bodies", "parts"))
        for one, size in zip(people, _sizes(image, truth), strict=True):
            one["image_size"] = size
        for name, metric in self.metrics.items():
            if name != "samples":
                metric.update(found, people, truth["index"])
        if "samples" in self.metrics:
            # the picture is in the pixels of the network's input
            shown = [
                {**one, "boxes": seen["boxes"]} for one, seen in zip(found, detected, strict=True)
            ]
            self.metrics["samples"].update(image, shown, people_of(truth), truth["index"])
        return objectives

    def detect(self, image: Tensor, raw: Tensor) -> list[dict[str, Tensor]]:
        """Return the bodies and parts on each image, in its pixels and without association.

        Args:
            image: Images (B, 3, H, W).
            raw: Output of the network for them.
        """
        return detect(
            raw,
            self._grid(image),
            num_classes=self.num_classes,
            num_slots=len(self.slot_classes),
            num_states=self.num_states,
            body_score=self.body_score,
            body_iou=self.body_iou,
            part_score=self.part_score,
            part_iou=self.part_iou,
            max_detections=self.max_detections,
        )

    def associated(self, found: list[dict[str, Tensor]], batch: Batch) -> list[dict[str, Tensor]]:
        """Return detections in the pixels of the original images, parts with their bodies.

        Args:
            found: Detections of each image, on the CPU.
            batch: Batch on the CPU, whose letterbox is undone if it has one.
        """
        found = _in_original(found, batch, ("boxes", "points"))
        found = [self.associator(one, self.slot_classes) for one in found]
        if self.num_states:
            found = [{**one, "states": contact_states(one)} for one in found]
        return found

    def predict_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int
    ) -> list[dict[str, Tensor]]:
        """Return bodies and parts with their bodies, in pixels of the original images."""
        batch = self.fields_of(batch, predicting=True)
        found = on_cpu(self.detect(batch["image"], self(batch["image"])))
        places = {name: batch[name] for name in PLACES if name in batch}
        return self.associated(found, copy_packed(places, "cpu"))

    def make_metrics(self) -> dict[str, Any]:
        """Return the metrics of the protocols, and images for a figure."""
        names = self._names()
        made: dict[str, Any] = {}
        for protocol in self.protocols:
            if protocol in ("crowdhuman", "citypersons"):
                made["precision"] = CrowdHumanAveragePrecision(names, self.slot_classes)
                made["matching"] = MissMatchingRate(names, self.slot_classes, subsets=protocol)
            elif protocol == "bodyhands":
                made["joint"] = JointAveragePrecision(names, self.slot_classes)
            else:
                made["parts"] = PartsAveragePrecision(names, self.slot_classes)
        shape = getattr(self.datamodule, "input_shape", None)
        if shape is not None:
            made["samples"] = PeopleSamples(shape)
        return made

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return images with bodies and their parts, and both miss rates over false positives."""
        from framework.detection.body_parts.figures import people_panels
        from framework.detection.body_parts.miss_rate_figure import miss_rate_over_fppi

        names = self._names()
        figures: dict[str, Any] = {}
        if "body_miss_rate" in values:
            rates = {name: values[f"{name}_miss_rate"] for name in names}
            averages = {name: float(values[f"{name}_mr"]) for name in names}
            figures["miss_rate"] = miss_rate_over_fppi(values["fppi"], rates, averages)
        if "mmr_fppi" in values:
            rates, averages = {}, {}
            subsets = SUBSETS["citypersons" if "citypersons" in self.protocols else "crowdhuman"]
            for part in names[1:]:
                curves = values[f"{part}_miss_matching_rate"]
                for subset, curve in zip(subsets, curves, strict=True):
                    rates[f"{part}, {subset}"] = curve
                    averages[f"{part}, {subset}"] = float(values[f"{part}_mmr_{subset}"])
            title = "Miss matching rate over false pairs per image"
            figures["miss_matching_rate"] = miss_rate_over_fppi(
                values["mmr_fppi"], rates, averages, title
            )
        if "samples" in values:
            figures["people"] = people_panels(values["samples"], names)
        return figures

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Restore the parameters, and assign with the anchors that came with them."""
        self._assigner = None
        return super().load_state_dict(*args, **kwargs)

    def _names(self) -> list[str]:
        return names_of_classes(self, self.datamodule)


def _in_original(
    images: list[dict[str, Tensor]], batch: Batch, names: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Return images' boxes and points in the pixels of the images before the letterbox."""
    if "letterbox_scale" not in batch:
        return images
    places = zip(images, batch["letterbox_offset"], batch["letterbox_scale"], strict=True)
    return [
        {
            **one,
            **{
                name: to_whole_image(one[name].unflatten(-1, (-1, 2)), offset, scale).flatten(-2)
                for name in names
            },
        }
        for one, offset, scale in places
    ]


def _sizes(image: Tensor, batch: Batch) -> Tensor:
    """Return width and height of each original image, (B, 2)."""
    height, width = image.shape[-2:]
    size = torch.tensor([width, height], dtype=torch.float32)
    return batch.get("image_size", size.expand(len(image), 2))


def _multiple(side: int, stride: int) -> int:
    """Return the multiple of a stride that is nearest to a side, at least one stride."""
    return max(1, round(side / stride)) * stride


def _check_slots(slot_classes: Sequence[int], num_classes: int) -> None:
    check_at_least(2, num_classes=num_classes)
    if not slot_classes or any(not 0 < label < num_classes for label in slot_classes):
        raise ValueError(
            f"slot_classes must be classes from 1 to {num_classes - 1}, got {list(slot_classes)}."
        )


def _check_states(num_states: int, num_slots: int) -> None:
    if num_states not in (0, STATES_PER_SLOT * num_slots):
        raise ValueError(
            f"num_states must be 0, or {STATES_PER_SLOT} for each of {num_slots} slots, got "
            f"{num_states}."
        )
