"""Scores of a clustering of nodes, in an evaluation and of the baselines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from framework.clustering.cluster_accuracy import ClusterAccuracy, cluster_accuracy
from framework.clustering.cluster_f1 import ClusterF1Score, cluster_f1_score
from framework.clustering.cluster_sizes import ClusterSizes, SmallestClusterFrequency
from framework.clustering.clustering_scores import (
    AdjustedRandScore,
    NormalizedMutualInfoScore,
    adjusted_rand_score,
    normalized_mutual_info_score,
)
from framework.clustering.contingency_table import ContingencyTable

OF_EDGES = ("modularity", "conductance")
"""Metrics of the whole graph, which are no sums over nodes."""


def node_metrics(num_clusters: int, num_classes: int | None) -> dict[str, Any]:
    """Return the metrics of an evaluation; ``num_classes`` is None without labels."""
    metrics: dict[str, Any] = {
        "smallest_cluster": SmallestClusterFrequency(num_clusters),
        "max_probability": MeanMetric(),
        **{name: MeanMetric(nan_strategy="ignore") for name in OF_EDGES},
        "sizes": ClusterSizes(num_clusters),
    }
    if num_classes is None:
        return metrics
    labeled = {
        "accuracy": ClusterAccuracy(num_clusters, num_classes),
        "nmi_arithmetic": NormalizedMutualInfoScore(num_clusters, num_classes, "arithmetic"),
        "adjusted_rand": AdjustedRandScore(num_clusters, num_classes),
        "f1": ClusterF1Score(num_clusters, num_classes),
        "confusion": ContingencyTable(num_clusters, num_classes),
    }
    return labeled | metrics


def measure(metrics: MetricCollection, assignment: Tensor, label: Tensor | None) -> None:
    """Update the metrics that are sums over nodes with some nodes and their assignments (B, K)."""
    probability, cluster = assignment.max(1)
    for name in ("accuracy", "nmi_arithmetic", "adjusted_rand", "f1", "confusion"):
        if name in metrics:
            metrics[name].update(cluster, label)
    for name in ("smallest_cluster", "sizes"):
        metrics[name].update(cluster)
    metrics["max_probability"].update(probability)


def scores_of(cluster: Tensor, label: Tensor, num_clusters: int) -> dict[str, float]:
    """Return the scores that compare clusters with classes, both (N,).

    Example:
        >>> scores_of(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), num_clusters=2)
        {'accuracy': 1.0, 'nmi_arithmetic': 1.0, 'adjusted_rand': 1.0, 'f1': 1.0}
    """
    counts = torch.zeros(num_clusters, int(label.max()) + 1, dtype=torch.int64)
    table = counts.index_put((cluster.cpu(), label.cpu()), torch.tensor(1), accumulate=True)
    return {
        "accuracy": cluster_accuracy(table),
        "nmi_arithmetic": normalized_mutual_info_score(table, "arithmetic"),
        "adjusted_rand": adjusted_rand_score(table),
        "f1": cluster_f1_score(table),
    }
