"""Evaluation of DEPICT's clusters: metrics, baselines, figures and predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Unpack

from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.clustering.reconstruction import layerwise_reconstruction_error
from framework.data.datasets import Batch
from framework.figures.score_table import Table
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.training.dataset_pass import sweep
from framework.training.module import TrainingModule, TrainingOptions
from modules.depict.network import DEPICTNetwork
from modules.depict.phases import Phase
from modules.depict.scores import cluster_metrics, measure
from modules.depict.snapshots import Snapshots

logger = logging.getLogger("lightning.pytorch")


class ClusterEvaluation(TrainingModule):
    """Evaluates a network that reconstructs images and assigns them softly to clusters.

    Args:
        network: Network whose head gives K logits.
        hidden_weight: Weight of the hidden layers in the reconstruction.
        phase: Phase that training begins with.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.
    """

    panels: tuple[Panel, ...] = (
        Panel("Clustering accuracy, by stage", ("accuracy*",), "share of the samples", best="max"),
        Panel(
            "Agreement with the classes, by stage",
            ("nmi_geometric*", "adjusted_rand"),
            "index",
            best="max",
        ),
        Panel("Sizes of the clusters", ("smallest_*",), "share of the samples"),
        Panel("Certainty of the assignment", ("max_probability",), "probability"),
        Panel("Phase", ("train/phase",), "number of the phase", axis=STEP),
        Panel("Change of the targets", ("train/target_change_epoch",)),
    )

    def __init__(
        self,
        network: DEPICTNetwork,
        hidden_weight: float,
        phase: Phase,
        optimizer: OptimizerCallable,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        self.network = network
        self.hidden_weight = hidden_weight
        self.num_clusters = network.head.out_features
        self.prediction_shape = (self.num_clusters,)
        self.part = phase
        """The present phase."""
        self.stages: dict[str, dict[str, float]] = {}
        """Accuracy and NMI of every baseline that was measured."""
        self.snapshots = Snapshots()

    @property
    def clusters_exist(self) -> bool:
        """Whether the clusters have been initialized."""
        return self.part.name != "autoencoder"

    @property
    def has_metrics(self) -> bool:
        """Whether the clusters are DEPICT's own, and not missing yet or a baseline's."""
        return self.part.name in ("head", "joint")

    @property
    def labeled(self) -> bool:
        """Whether the data has labels, which are for metrics alone."""
        return self._classes is not None

    @property
    def _classes(self) -> int | None:
        return getattr(self.datamodule, "num_classes", None)

    def forward(self, image: Tensor) -> Tensor:
        """Return the clean logits of the clusters, (B, K)."""
        return self.network.logits(self.network.code(image))

    def assign(self, image: Tensor) -> Tensor:
        """Return the clean soft assignments, (B, K) float32."""
        return self(image).float().softmax(1)

    def _sweep(self, compute: Any, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return what ``compute`` makes of the images of all samples, and their labels."""
        keep = ("label",) if self.labeled else ()

        def with_labels(batch: Batch) -> dict[str, Tensor]:
            return {**compute(batch["image"]), **{name: batch[name] for name in keep}}

        return sweep(self, with_labels, rows)

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction error without noise, (B,), and the clean code."""
        layers = self.network.autoencoder.encode(image)
        decoded = self.network.autoencoder.decode(layers[-1])
        clean = [image, *layers[:-1]]
        return layerwise_reconstruction_error(clean, decoded, self.hidden_weight), layers[-1]

    def evaluate(self, batch: Batch) -> Objectives | None:
        """Update the metrics, once there are clusters, and return the error without noise.

        Nothing is measured in the baseline's phase, whose weights are forgotten: what is monitored
        must not take them for the best.
        """
        if self.part.name == "baseline":
            return None
        reconstruction, code = self.reconstruct(batch["image"])
        if self.has_metrics:
            assignment = self.network.logits(code).float().softmax(1)
            measure(self.metrics, batch, code, assignment)
        return Objectives(per_sample={"reconstruction": reconstruction}, index=batch["index"])

    def make_metrics(self) -> dict[str, Any]:
        """Return the metrics of clusterings, those that need labels only where there are any."""
        return cluster_metrics(self.num_clusters, self.network.input_shape, self._classes)

    def setup(self, stage: str) -> None:
        """Make the metrics anew: other data may have other classes, or no labels."""
        self._metrics.clear()
        super().setup(stage)

    def on_validation_epoch_end(self) -> None:
        """Log metrics, and in training the baselines and a picture of the codes."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn != "fit":
            return
        for stage, scores in self.stages.items():
            self.log_dict({f"val/{name}/{stage}": value for name, value in scores.items()})
        if self.has_metrics and not self.trainer.sanity_checking:
            title = f"epoch {self.current_epoch + 1}: {self.part.name}"
            self.snapshots.add(title, self.metric_values["codes"])

    def on_validation_start(self) -> None:
        """Warn of a checkpoint without clusters of DEPICT to measure."""
        if self.trainer.state.fn == "validate":
            self._warn_of_phase()

    def on_test_start(self) -> None:
        """Warn of a checkpoint without clusters of DEPICT to measure."""
        self._warn_of_phase()

    def on_predict_start(self) -> None:
        """Warn of predictions that mean nothing."""
        self._warn_of_phase()

    def _warn_of_phase(self) -> None:
        if not self.has_metrics:
            logger.warning(
                f"The checkpoint is of the phase {self.part.name!r}, so there are no clusters of "
                "DEPICT in it yet: its assignments mean nothing."
            )

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cluster of every image and its probability."""
        probability, cluster = self.assign(batch["image"]).max(1)
        return {"cluster": cluster, "probability": probability}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return sample sheets, the codes by epoch and, with labels, the cluster of each class."""
        if not self.has_metrics:
            return {}
        from modules.depict.figures import evaluation_figures

        names = getattr(self.datamodule, "class_names", None)
        # baselines and snapshots are of the data of training
        fitting = self.trainer.state.fn == "fit"
        stages = self.stages if fitting else {}
        snapshots = self.snapshots if fitting else None
        current = "DEPICT" if self.part.name == "joint" else "the head, so far"
        return evaluation_figures(values, stages, snapshots, names, current)

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the clusters and, with labels, the class that each stands for."""
        if not self.has_metrics:
            return {}
        from framework.clustering.figures import cluster_table

        names = getattr(self.datamodule, "class_names", None)
        return {"clusters": cluster_table(values["sizes"], values.get("confusion"), names)}
