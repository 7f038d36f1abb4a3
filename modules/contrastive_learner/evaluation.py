"""Evaluation of representations by what their nearest neighbors and a linear classifier tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.contrastive.class_temperatures import (
    ClassTemperatures,
    class_temperatures,
    temperature_summary,
    temperature_table,
)
from framework.contrastive.linear_probe import LinearProbeAccuracy
from framework.contrastive.neighbor_accuracy import NeighborAccuracy
from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.embedding.metrics.alignment_uniformity import alignment, uniformity
from framework.figures.score_table import Table
from framework.runs.panels import Panel
from framework.training.dataset_pass import sweep
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.checks import check_at_least

MOST_COMPARED = 2048
"""Training samples of which all pairs are compared, and which are drawn."""


class RepresentationEvaluation(TrainingModule):
    """Measures representations of training samples, and of others by them.

    Before an evaluation every training sample is represented as it is. With labels, the others are
    classified by the votes of their nearest training samples and by logistic regression on these.

    Args:
        neighbors: Number of training samples that vote.
        probe: Whether to fit a linear classifier at every evaluation.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.
    """

    panels: tuple[Panel, ...] = (
        Panel(
            "Accuracy on frozen features",
            ("neighbor_accuracy", "probe_accuracy"),
            "share of the samples",
            best="max",
        ),
        Panel("Temperatures", ("train/temperature_*",), "temperature"),
        Panel("Temperature and frequency", ("frequency_correlation",), "rank correlation"),
        Panel("Uniformity", ("uniformity",), best="min"),
        Panel("Alignment of classes", ("alignment",), "squared distance", best="min"),
    )
    embedding_column = "embedding"
    input_field = "image"

    def __init__(
        self,
        neighbors: int,
        probe: bool,
        optimizer: OptimizerCallable,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        check_at_least(1, neighbors=neighbors)
        self.neighbors = neighbors
        self.probe = probe
        self._bank: dict[str, Tensor] = {}
        self._has_labels = False

    def project(self, representation: Tensor) -> Tensor:
        """Return embeddings (B, d), which training compares, of representations (B, D)."""
        raise NotImplementedError

    def sample_temperatures(self) -> Tensor | None:
        """Return the temperature of every training sample (N,), NaN of those never visited.

        None where the samples have none of their own, or none was visited yet.
        """
        return None

    def setup(self, stage: str) -> None:
        """Make the metrics anew: other data may have other classes, or no labels."""
        self._metrics.clear()
        self._bank = {}
        super().setup(stage)

    def make_metrics(self) -> Mapping[str, Any]:
        """Return the accuracies, where there are labels."""
        classes = getattr(self.datamodule, "num_classes", None)
        if not classes:
            return {}
        found: dict[str, Any] = {"neighbor_accuracy": NeighborAccuracy(classes, self.neighbors)}
        if self.probe:
            found["probe_accuracy"] = LinearProbeAccuracy(classes)
        return found

    @property
    def has_metrics(self) -> bool:
        """Whether there are labeled training samples to tell others by."""
        return self._has_labels

    def on_validation_epoch_start(self) -> None:
        """Represent the training samples."""
        self._use_bank()

    def on_test_epoch_start(self) -> None:
        """Represent the training samples."""
        self._use_bank()

    def _use_bank(self) -> None:
        data = self.datamodule
        self._bank, self._has_labels = {}, False
        if self.trainer.sanity_checking or not isinstance(data, DataModule) or not data.train_set:
            return
        self._bank = sweep(self, self._represented)
        self._has_labels = "label" in self._bank
        if self.has_metrics:
            for metric in self._accuracies():
                metric.use_bank(self._bank["representation"], self._bank["label"])

    def _accuracies(self) -> list[Any]:
        return list(self.metrics.values())

    def _represented(self, batch: Batch) -> dict[str, Tensor]:
        representation = self(batch[self.input_field])
        found = {"representation": representation, "embedding": self.project(representation)}
        if "label" in batch and batch["label"].ndim == 1 and len(self.metrics):
            found["label"] = batch["label"]
        return found

    def evaluate(self, batch: Batch) -> None:
        """Classify a batch by the training samples."""
        if self.has_metrics:
            representation = self(batch[self.input_field])
            for metric in self._accuracies():
                metric.update(representation, batch["label"])

    def _log_evaluation(self) -> None:
        super()._log_evaluation()
        if not self._bank:
            return
        rows = torch.linspace(0, len(self._bank["index"]) - 1, MOST_COMPARED).round().long()
        shown = {name: value[rows.unique().to(value.device)] for name, value in self._bank.items()}
        scores = {"uniformity": uniformity(shown["embedding"])}
        if self.has_metrics:
            known = shown["label"] >= 0
            scores["alignment"] = alignment(shown["embedding"][known], shown["label"][known])
        temperature = self.sample_temperatures()
        if temperature is not None:
            shown["temperature"] = temperature[shown["index"].cpu()]
            if self.has_metrics:
                of_bank = temperature[self._bank["index"].cpu()]
                found = class_temperatures(of_bank, self._bank["label"].cpu())
                self.metric_values["class_temperatures"] = found
                scores["frequency_correlation"] = found.correlation
        scores = {name: value for name, value in scores.items() if bool(value.isfinite())}
        self.metric_values |= {"shown": shown, **scores}
        self.log_dict({f"{self.stage}/{name}": value.float() for name, value in scores.items()})
        # the rows of a large set are not to be held while training goes on
        self._bank = {}

    def on_train_epoch_end(self) -> None:
        """Log how the temperatures of the samples are distributed."""
        super().on_train_epoch_end()
        temperature = self.sample_temperatures()
        if temperature is None:
            return
        values = temperature_summary(temperature[~temperature.isnan()])
        self.log_dict({f"train/temperature_{name}": value for name, value in values.items()})

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the representation of every sample."""
        return {"embedding": self(batch[self.input_field]).float()}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return a map of the training samples, their neighbors, and temperatures by class."""
        shown = values.get("shown")
        if shown is None:
            return {}
        from framework.contrastive.temperature_figure import temperature_figure
        from modules.contrastive_learner.figures import representation_figures, training_pictures

        picture = training_pictures(self.datamodule)
        figures: dict[str, Any] = dict(representation_figures(shown, picture, self._names))
        if "class_temperatures" in values:
            found: ClassTemperatures = values["class_temperatures"]
            figures["temperatures"] = temperature_figure(found, self._names)
        return figures

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the temperatures of the classes."""
        found: ClassTemperatures | None = values.get("class_temperatures")
        if found is None:
            return {}
        return {"temperatures": temperature_table(found, self._names)}

    @property
    def _names(self) -> Sequence[str] | None:
        return self.class_names or getattr(self.datamodule, "class_names", None)
