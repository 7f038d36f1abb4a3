"""Metrics of a clustering, in an evaluation and between the phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from framework.clustering.cluster_accuracy import ClusterAccuracy, cluster_accuracy
from framework.clustering.cluster_samples import ClusterSamples
from framework.clustering.cluster_sizes import ClusterSizes, SmallestClusterFrequency
from framework.clustering.clustering_scores import (
    AdjustedRandScore,
    NormalizedMutualInfoScore,
    normalized_mutual_info_score,
)
from framework.clustering.contingency_table import ContingencyTable
from framework.clustering.soft_frequency import SmallestSoftFrequency
from framework.data.datasets import Batch
from framework.metrics.embedding_sample import EmbeddingSample, EmbeddingSnapshot

CODES = 500
# metrics that compare with labels
LABELED = ("accuracy", "nmi_geometric", "adjusted_rand", "confusion")


def cluster_metrics(
    num_clusters: int, image_shape: Sequence[int], num_classes: int | None
) -> dict[str, Any]:
    """Return the metrics of an evaluation; ``num_classes`` is None without labels."""
    metrics: dict[str, Any] = {
        "smallest_frequency": SmallestSoftFrequency(num_clusters),
        "smallest_cluster": SmallestClusterFrequency(num_clusters),
        "max_probability": MeanMetric(),
        "sizes": ClusterSizes(num_clusters),
        "samples": ClusterSamples(num_clusters, image_shape),
        "codes": EmbeddingSample(num_clusters, CODES),
    }
    if num_classes is not None:
        made = [
            ClusterAccuracy(num_clusters, num_classes),
            NormalizedMutualInfoScore(num_clusters, num_classes, "geometric"),
            AdjustedRandScore(num_clusters, num_classes),
            ContingencyTable(num_clusters, num_classes),
        ]
        metrics = dict(zip(LABELED, made, strict=True)) | metrics
    return metrics


def measure(metrics: MetricCollection, batch: Batch, code: Tensor, assignment: Tensor) -> None:
    """Update ``cluster_metrics`` with a batch and its soft assignments, (B, K)."""
    probability, cluster = assignment.max(1)
    label = batch.get("label")
    for name in LABELED:
        if name in metrics:
            metrics[name].update(cluster, label)
    metrics["smallest_frequency"].update(assignment)
    for name in ("smallest_cluster", "sizes"):
        metrics[name].update(cluster)
    metrics["max_probability"].update(probability)
    metrics["samples"].update(batch["image"], cluster, probability, batch["index"])
    metrics["codes"].update(code, cluster, batch["index"], label)


def sample_codes(
    code: Tensor, cluster: Tensor, index: Tensor, label: Tensor | None
) -> EmbeddingSnapshot:
    """Return the codes of the samples that an evaluation keeps, from all that there are."""
    sample = EmbeddingSample(code.shape[1], CODES, sync_on_compute=False).to(code.device)
    sample.update(code, cluster, index, label)
    return sample.compute()


def stage_scores(cluster: Tensor, label: Tensor, num_clusters: int) -> dict[str, float]:
    """Return accuracy and NMI of a clustering, (N,), that every rank holds whole."""
    table = _table(cluster, label, num_clusters)
    return {
        "accuracy": cluster_accuracy(table),
        "nmi_geometric": normalized_mutual_info_score(table, "geometric"),
    }


def agreement(cluster: Tensor, other: Tensor) -> float:
    """Return the NMI, geometric, of two clusterings, (N,), that every rank holds whole."""
    size = int(cluster.max()) + 1
    return normalized_mutual_info_score(_table(cluster, other, size), "geometric")


def _table(cluster: Tensor, label: Tensor, num_clusters: int) -> Tensor:
    table = ContingencyTable(num_clusters, int(label.max()) + 1, sync_on_compute=False)
    table = table.to(label.device)
    table.update(cluster, label)
    # not `compute`, which makes a scalar of a table of one cell
    return table.table
