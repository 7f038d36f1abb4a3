"""Evaluation of a clustering of nodes: metrics, baselines, figures and predictions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from framework.clustering.student_t import StudentTAssignment, assignment_divergence
from framework.clustering.target_distribution import dec_target_distribution
from framework.data.datasets import Batch
from framework.figures.score_table import Table
from framework.graphs.partition_scores import conductance, modularity
from framework.objectives.objectives import Objectives
from framework.runs.panels import STEP, Panel
from framework.training.module import TrainingModule, TrainingOptions
from framework.utilities.precision import at_least_float32
from modules.graph_clustering.network import perceptron
from modules.graph_clustering.scores import OF_EDGES, measure, node_metrics

logger = logging.getLogger("lightning.pytorch")


class NodeClusterEvaluation(TrainingModule):
    """Evaluates an encoder of nodes with a soft head on its code; a batch is the whole graph.

    Every rank holds the whole graph and computes all of it, but measures and predicts the nodes of
    the batch's ``index``.

    Args:
        sizes: Sizes of the encoder's layers, from the features to the code.
        num_clusters: Number K of clusters.
        nu: Degrees of freedom of the assignment.
        optimizer: Optimizer of the parameters.
        **options: Arguments of ``TrainingModule``.
    """

    embedding_column = "embedding"
    whole_batches = False
    panels: tuple[Panel, ...] = (
        Panel("Clustering accuracy, by stage", ("accuracy*",), "share of the nodes", best="max"),
        Panel(
            "Agreement with the classes, by stage",
            ("nmi_arithmetic*", "adjusted_rand*", "f1*"),
            "index",
            best="max",
        ),
        Panel("Modularity of the clusters", ("modularity",), best="max"),
        Panel("Edges that leave their cluster", ("conductance",), "share of the edges", best="min"),
        Panel("Smallest cluster", ("smallest_*",), "share of the nodes"),
        Panel("Certainty of the assignment", ("max_probability",), "probability"),
        Panel("Phase", ("train/phase",), "number of the phase", axis=STEP),
    )

    def __init__(
        self,
        sizes: Sequence[int],
        num_clusters: int,
        nu: float,
        optimizer: OptimizerCallable,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(optimizer=optimizer, **options)
        self.encoder = perceptron(sizes)
        self.decoder = perceptron(list(sizes)[::-1])
        self.head = StudentTAssignment(num_clusters, sizes[-1], nu)
        self.input_shape = (sizes[0],)
        self.num_clusters = num_clusters
        self.prediction_shape = (num_clusters,)
        self.placed = False
        """Whether the clusters have been found."""
        self.stages: dict[str, dict[str, float]] = {}
        """Scores of every baseline that was measured."""
        self._shown: dict[str, Tensor] = {}

    @property
    def has_metrics(self) -> bool:
        """Whether there are clusters."""
        return self.placed

    @property
    def labeled(self) -> bool:
        """Whether the data has labels, which are for metrics alone."""
        return self._classes is not None

    @property
    def _classes(self) -> int | None:
        return getattr(self.datamodule, "num_classes", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithms of the soft assignments of nodes with features (N, F), (N, K)."""
        return self.head(self.encoder(x))

    def forward_inputs(self, batch: Batch) -> tuple[Tensor]:
        """Return what ``forward`` takes: this rank's share of the nodes."""
        return (batch["x"][counted_nodes(batch)],)

    def setup(self, stage: str) -> None:
        """Make the metrics anew: other data may have other classes, or no labels."""
        self._metrics.clear()
        super().setup(stage)

    def make_metrics(self) -> dict[str, Any]:
        """Return the metrics, those that need labels only where there are any."""
        return node_metrics(self.num_clusters, self._classes)

    def evaluate(self, batch: Batch) -> Objectives:
        """Update the metrics, once there are clusters, and return the losses that need no edges."""
        x = batch["x"]
        rows = counted_nodes(batch)
        z = self.encoder(x)
        reconstruction = self._reconstruction(z, x)[rows]
        if not self.placed:
            return Objectives(per_sample={"reconstruction": reconstruction})
        log_q = self.head(z)
        q = log_q.exp()
        measure(self.metrics, q[rows], batch["label"][rows] if self.labeled else None)
        edges, weight = batch["edge_index"], at_least_float32(batch["edge_weight"])
        cluster = q.argmax(1)
        for name, score in zip(OF_EDGES, (modularity, conductance), strict=True):
            self.metrics[name].update(score(edges, weight, cluster, self.num_clusters))
        self._shown = {"edge_index": edges, "z": z, "cluster": cluster}
        if self.labeled:
            self._shown["label"] = batch["label"]
        divergence = assignment_divergence(log_q, dec_target_distribution(q, "square"))
        return Objectives(
            per_sample={"reconstruction": reconstruction, "clustering": divergence[rows]},
            weights={"reconstruction": 0.0},
        )

    def _reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """Return the mean squared error of every node's features, (N,)."""
        return at_least_float32(self.decoder(z) - x).square().mean(1)

    def on_validation_epoch_end(self) -> None:
        """Log metrics, and in training the baselines."""
        super().on_validation_epoch_end()
        if self.trainer.state.fn != "fit":
            return
        for stage, scores in self.stages.items():
            self.log_dict({f"val/{name}/{stage}": value for name, value in scores.items()})

    def on_validation_start(self) -> None:
        """Warn of a checkpoint without clusters to measure."""
        if self.trainer.state.fn == "validate":
            self._warn_of_phase()

    def on_test_start(self) -> None:
        """Warn of a checkpoint without clusters to measure."""
        self._warn_of_phase()

    def on_predict_start(self) -> None:
        """Warn of predictions that mean nothing."""
        self._warn_of_phase()

    def _warn_of_phase(self) -> None:
        if not self.placed:
            logger.warning(
                "The checkpoint is of the auto-encoder's phase, so there are no clusters in it "
                "yet: its assignments mean nothing."
            )

    def predict_columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cluster, its probability, and the embedding of this rank's nodes."""
        z = self.encoder(batch["x"][counted_nodes(batch)])
        probability, cluster = self.head(z).exp().max(1)
        return {"cluster": cluster, "probability": probability, "embedding": z}

    def figures(self, stage: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the map of the embeddings and, with labels, the cluster of each class."""
        if not self.placed:
            return {}
        from modules.graph_clustering.figures import evaluation_figures

        names = getattr(self.datamodule, "class_names", None)
        stages = self.stages if self.trainer.state.fn == "fit" else {}
        return evaluation_figures(values, stages, self._shown, names)

    def score_tables(self, stage: str, values: dict[str, Any]) -> dict[str, Table]:
        """Return the clusters and, with labels, the class that each stands for."""
        if not self.placed:
            return {}
        from framework.clustering.figures import cluster_table

        names = getattr(self.datamodule, "class_names", None)
        return {"clusters": cluster_table(values["sizes"], values.get("confusion"), names)}


def counted_nodes(batch: Batch) -> Tensor:
    """Return the nodes that this rank counts, ``index``, or all where a batch does not say."""
    index = batch.get("index")
    return torch.arange(len(batch["x"]), device=batch["x"].device) if index is None else index
