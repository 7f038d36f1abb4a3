"""F1 of a clustering after its clusters are matched with classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.clustering.contingency_table import ContingencyTable, match_clusters


class ClusterF1Score(ContingencyTable):
    """Mean over classes of F1, when each class is predicted by the cluster matched with it.

    The matching is that of ``ClusterAccuracy``. A class without a cluster has F1 0; classes without
    a sample are left out of the mean.

    ``compute`` returns a float32 scalar, NaN without any sample. Arguments and errors are those of
    ``ContingencyTable``.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_f1 import ClusterF1Score
        >>> metric = ClusterF1Score(num_clusters=2, num_classes=2)
        >>> metric.update(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 0, 0]))
        >>> metric.compute()
        tensor(0.7333)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the score."""
        return torch.tensor(cluster_f1_score(self.table), device=self.table.device)


def cluster_f1_score(table: Tensor) -> float:
    """Return the mean of F1 over the classes that have samples; NaN without any sample.

    Args:
        table: (K, C) counts; rows are clusters, columns classes.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_f1 import cluster_f1_score
        >>> cluster_f1_score(torch.tensor([[0, 2, 0], [2, 0, 0]]))
        1.0
    """
    match = match_clusters(table)
    counts = table.double()
    clusters, classes = counts.sum(1), counts.sum(0)
    if not classes.any():
        return math.nan
    scores = torch.zeros_like(classes)
    matched = match >= 0
    own = match[matched]
    scores[own] = 2 * counts[matched, own] / (clusters[matched] + classes[own])
    return float(scores[classes > 0].mean())
