"""Image classification: any backbone, any loss that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.figures.score_table import Table, class_score_table
from framework.layers.timm_backbone import timm_normalization
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.labels import IGNORE_INDEX
from framework.objectives.objectives import Objectives
from framework.runs.panels import Panel
from framework.training.compatibility import check_fact
from framework.training.module import TrainingModule, TrainingOptions
from framework.training.terms import check_classes, rows_of
from modules.classifier.network import build_network

Criterion = nn.CrossEntropyLoss | nn.MultiMarginLoss | ClassificationLoss


class ClassifierOptions(TrainingOptions, total=False):
    """Arguments of ``Classifier``, for modules that build on it."""

    num_classes: int | None
    input_shape: Sequence[int] | None
    backbone: str
    widths: Sequence[int]
    pretrained: bool
    criterion: Criterion | None
    optimizer: OptimizerCallable


class Classifier(TrainingModule):
    """Classifies images by a backbone with a linear head.

    A batch holds ``image`` (B, C, H, W) float32, ``label`` (B,) int64 or soft (B, K), and ``index``
    (B,). Accuracy, top-5 accuracy, expected calibration error (15 bins) and the confusion matrix
    are torchmetrics'.

    Args:
        num_classes: Number K of classes; None for those of the data, see ``for_data``.
        input_shape: Shape (C, H, W) of an image; None for that of the data.
        backbone: Backbone: ``'mlp'``, ``'cnn'``, ``'alexnet'`` or any timm name, such as
            ``resnet18``.
        widths: Widths of the layers of ``mlp``, of the stages of ``cnn``, or of the five
            convolutions and the two hidden layers of ``alexnet``; timm backbones ignore them.
        pretrained: Whether to load timm's weights; the command then gives the data the mean and the
            std that they were trained with, where the config has none.
        criterion: Loss on the logits; default cross-entropy.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.

    Raises:
        ValueError: ``num_classes`` or ``input_shape`` is None where nothing fills it, or there are
            fewer than two classes; the backbone is unknown, a label is not one of 0..K-1; or the
            data has another shape or other classes (at ``setup``), or an epoch ends in a batch of
            one row, which batch norm cannot take (before the first one).

    Example:
        >>> import torch
        >>> from modules import Classifier
        >>> model = Classifier(num_classes=10, input_shape=(1, 8, 8))
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    arguments_from_data: Mapping[str, str] = {
        "num_classes": "num_classes",
        "input_shape": "input_shape",
    }
    panels: tuple[Panel, ...] = (
        Panel("Accuracy", ("accuracy*", "robust_accuracy"), "share of the samples", best="max"),
        Panel("Calibration error", ("calibration_error",), "difference of shares", best="min"),
    )
    required_fields: tuple[str, ...] = ("image", "label")
    tuple_fields: tuple[str, ...] = ("image", "label")
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index", "features")
    _needs_two_rows = False

    def __init__(
        self,
        num_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        backbone: str = "mlp",
        widths: Sequence[int] = (256, 256),
        pretrained: bool = False,
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        if num_classes is None or input_shape is None:
            raise ValueError(
                "Neither an argument nor the data says what is to be classified: set "
                "model.num_classes and model.input_shape, or in Python use "
                f"{type(self).__name__}.for_data(data)."
            )
        if num_classes < 2:
            raise ValueError(
                "A classifier tells two classes or more apart; the data, or model.num_classes, "
                f"has {num_classes}."
            )
        self.num_classes = num_classes
        self.prediction_shape = (num_classes,)
        self.input_shape = tuple(input_shape)
        self.backbone = backbone
        self.pretrained = pretrained
        self.build_network = partial(
            build_network, backbone, num_classes, input_shape, widths, pretrained
        )
        """Makes a further network like the first."""
        self.network = self.build_network()
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        self.provides = rows_of(self.criterion, self.provides)

    def setup(self, stage: str) -> None:
        """Check that the data has the model's input shape and classes."""
        check_fact(self.datamodule, "input_shape", self.input_shape)
        # evaluated data may lack classes, which are matched by name
        check_fact(self.datamodule, "num_classes", self.num_classes, at_most=stage != "fit")
        # tried before batch norm is joined over ranks: what trains depends on no number of them
        self._needs_two_rows = (
            stage == "fit" and self._ends_in_one_row() and self._refuses_one_row()
        )
        super().setup(stage)
        if stage == "fit":
            self._check_normalization()

    def on_train_start(self) -> None:
        """Refuse an epoch that comes to a batch of one row, where batch norm cannot take it."""
        super().on_train_start()
        if not self._needs_two_rows:
            return
        data = self.datamodule
        rows, size = len(data.train_set), data.batch_size
        if self.trainer.num_training_batches * size >= rows:
            raise IncompatibleError(
                f"The last training batch is one of the {rows} rows (batch_size {size}), and batch "
                "norm needs two: set data.drop_last to true, or another data.batch_size."
            )

    def _check_normalization(self) -> None:
        """Warn where loaded weights get images of another scale than they were trained on."""
        known = timm_normalization(self.backbone) if self.pretrained else None
        if known is not None and getattr(self.datamodule, "normalize", known) is None:
            mean, std = known
            rank_zero_warn(
                f"The weights of {self.backbone} were trained on images normalized by mean {mean} "
                f"and std {std}, and those of {type(self.datamodule).__name__} are not: set both."
            )

    def _ends_in_one_row(self) -> bool:
        """Return whether the last batch of the training set, over all ranks, is one row."""
        data = self.datamodule
        if not isinstance(data, DataModule) or data.has_groups or "domain" in self.required_fields:
            return False
        if isinstance(data.train_set, IterableDataset) or data.never_one_row:
            return False
        rows, size = len(data.train_set), data.batch_size  # type: ignore[arg-type]
        return (size if data.drop_last else rows % size or size) == 1

    def _refuses_one_row(self) -> bool:
        """Return whether batch norm is left with one value per channel of a batch of one row."""
        network = deepcopy(self.network).train()
        like = next(network.parameters())
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                network(like.new_zeros(1, *self.input_shape))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            return True
        return False

    def check_numbers(self, batch: Batch) -> None:
        """Refuse a label that is no class."""
        super().check_numbers(batch)
        self.check_labels(batch)

    def check_labels(self, batch: Batch) -> None:
        """Raise ``ValueError`` if a label of the batch is no class."""
        ignored = getattr(self.criterion, "ignore_index", None)
        check_classes(batch["label"], self.num_classes, ignored)

    @property
    def ignore_index(self) -> int:
        """Label of the rows that the criterion does not count."""
        return getattr(self.criterion, "ignore_index", IGNORE_INDEX)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.network(image)[0]

    def objectives(self, batch: Batch) -> Objectives:
        """Return the term ``classification``."""
        logits, features = self.network(batch["image"])
        objectives = Objectives(
            predictions=logits,
            targets=batch["label"],
            index=batch.get("index"),
            group=batch.get("group"),
            features=features,
        )
        self.add_term(objectives, "classification", self.criterion, inputs=batch["image"])
        return objectives

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives = self.objectives(batch)
        assert objectives.predictions is not None
        if len(objectives.predictions):
            self.metrics.update(objectives.predictions.float().softmax(-1), batch["label"])
        return objectives

    def make_metrics(self) -> Mapping[str, Any] | MetricCollection:
        """Return accuracy, top-5, calibration error and confusion matrix."""
        classes, ignored = self.num_classes, IGNORE_INDEX
        metrics: dict[str, Any] = {
            "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=ignored),
            "calibration_error": MulticlassCalibrationError(classes, 15, ignore_index=ignored),
            "confusion": MulticlassConfusionMatrix(classes, ignore_index=ignored),
        }
        if classes > 5:
            metrics["accuracy_top5"] = MulticlassAccuracy(
                classes, top_k=5, average="micro", ignore_index=ignored
            )
        return metrics

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class and the probability of every class."""
        probability = self(batch["image"]).float().softmax(-1)
        return {"prediction": probability.argmax(-1), "probability": probability}

    @property
    def column_names(self) -> dict[str, Sequence[str]]:
        """Names of the classes."""
        names = self.class_names
        return {} if names is None else {"prediction": names, "probability": names}

    def names_of_classes(self) -> Sequence[str] | None:
        """Return the names of the K classes, of the training or else of the data at hand."""
        names = self.class_names or getattr(self.datamodule, "class_names", None)
        return names if names is not None and len(names) == self.num_classes else None

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the confusion matrix, the scores of each class, and the regions of two inputs."""
        from framework.figures.tables import class_scores, confusion_matrix
        from modules.classifier.regions import region_figures

        names = self.names_of_classes()
        counts = values["confusion"].cpu()
        return {
            "confusion_matrix": confusion_matrix(counts, names),
            "class_scores": class_scores(counts, names),
            **region_figures(self, self.input_shape, names),
        }

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the scores of each class."""
        scores = class_score_table(values["confusion"], self.names_of_classes())
        # where no label is known there are no classes
        return {"class_scores": scores} if scores.rows else {}
