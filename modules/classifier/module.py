"""Image classification: any backbone, any loss that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

from framework.data.datasets import Batch
from framework.gradients.combiner import GradientCombiner
from framework.losses.loss import ClassificationLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.compatibility import check_input_shape
from framework.training.module import TrainingModule
from modules.classifier.network import build_network

Criterion = nn.CrossEntropyLoss | nn.MultiMarginLoss | ClassificationLoss


class Classifier(TrainingModule):
    """Classifies images by a backbone with a linear head.

    A batch holds ``image`` (B, C, H, W) float32, ``label`` (B,) int64 or soft (B, K), and ``index``
    (B,). Accuracy, top-5 accuracy, expected calibration error (15 bins) and the confusion matrix
    are torchmetrics'.

    Args:
        num_classes: K.
        input_shape: (C, H, W) of an image.
        backbone: ``'mlp'``, ``'cnn'`` or any timm name, such as ``resnet18``.
        widths: of the layers of ``mlp`` or the stages of ``cnn``; timm backbones ignore it.
        pretrained: load timm's weights.
        criterion: the loss on the logits.
        optimizer: from parameter groups to an optimizer.
        lr_scheduler: from an optimizer to a schedule.
        sync_batchnorm: share batch-norm statistics between ranks.
        gradient_combiner: how the gradients of several terms become one.

    Raises:
        ValueError: unknown backbone, data of another shape or with more classes (at
            ``setup``), or labels outside 0..K-1.

    Example:
        >>> import torch
        >>> model = Classifier(num_classes=10, input_shape=(1, 8, 8))
        >>> tuple(model(torch.zeros(2, 1, 8, 8)).shape)
        (2, 10)
    """

    required_fields: tuple[str, ...] = ("image", "label")
    tuple_fields: tuple[str, ...] = ("image", "label")
    provides: tuple[str, ...] = ("per_sample", "predictions", "targets", "index", "features")

    def __init__(
        self,
        num_classes: int = 10,
        input_shape: Sequence[int] = (1, 8, 8),
        backbone: str = "mlp",
        widths: Sequence[int] = (256, 256),
        pretrained: bool = False,
        criterion: Criterion | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        sync_batchnorm: bool = True,
        gradient_combiner: GradientCombiner | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, sync_batchnorm, gradient_combiner)
        self.num_classes = num_classes
        self.prediction_shape = (num_classes,)
        self.input_shape = tuple(input_shape)
        self.network = build_network(backbone, num_classes, input_shape, widths, pretrained)
        self.criterion = criterion if criterion is not None else nn.CrossEntropyLoss()
        if getattr(self.criterion, "batch_coupled", False):
            # such a loss is one number for the whole batch
            self.provides = tuple(name for name in self.provides if name != "per_sample")

    def setup(self, stage: str) -> None:
        """Refuse data that says of itself that it does not fit."""
        data = getattr(self.trainer, "datamodule", None)
        check_input_shape(data, self.input_shape)
        classes = getattr(data, "num_classes", None)
        if classes is not None and classes > self.num_classes:
            raise IncompatibleError(
                f"{type(data).__name__} has {classes} classes, but the model has "
                f"{self.num_classes}: set model.num_classes."
            )
        super().setup(stage)

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
        try:
            self.add_term(objectives, "classification", self.criterion, inputs=batch["image"])
        except (IndexError, RuntimeError):
            # looked at only now: a comparison at every step would make a GPU wait
            self._check_labels(batch["label"])
            raise
        return objectives

    def _check_labels(self, label: Tensor) -> None:
        if label.is_floating_point() or label.device.type != "cpu" or not len(label):
            return
        low, high = (int(v) for v in label.aminmax())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"The data holds the label {low if low < 0 else high}, but the model has the "
                f"classes 0..{self.num_classes - 1}: set model.num_classes."
            )

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics and return the loss."""
        objectives = self.objectives(batch)
        assert objectives.predictions is not None
        if len(objectives.predictions):
            self.metrics.update(objectives.predictions.float().softmax(-1), batch["label"])
        return objectives

    def make_metrics(self) -> MetricCollection:
        """Return accuracy, top-5, calibration error and confusion matrix."""
        classes = self.num_classes
        metrics: dict[str, Any] = {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "calibration_error": MulticlassCalibrationError(classes, n_bins=15),
            "confusion": MulticlassConfusionMatrix(classes),
        }
        if classes > 5:
            metrics["accuracy_top5"] = MulticlassAccuracy(classes, average="micro", top_k=5)
        # groups would tie states of different metrics together and break their separate reset
        return MetricCollection(metrics, compute_groups=False)

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted class and the probability of every class."""
        probability = self(batch["image"]).float().softmax(-1)
        return {"prediction": probability.argmax(-1), "probability": probability}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the confusion matrix."""
        from framework.figures.tables import confusion_matrix

        data = getattr(self.trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        return {"confusion_matrix": confusion_matrix(values["confusion"].cpu(), names)}
