"""Accuracy of a clustering after its clusters are matched with classes."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.clustering.contingency_table import ContingencyTable, match_clusters


class ClusterAccuracy(ContingencyTable):
    """Share of samples in the class of their cluster, under the best one-to-one assignment.

    It is ``ACC`` of the literature on deep clustering. Where K and C differ, the clusters or the
    classes that are left over count as wrong. torchmetrics' metric of this name needs K = C and a
    compiled package beside it; this one needs SciPy.

    ``compute`` returns a float32 scalar, NaN without any sample. Arguments and errors are those of
    ``ContingencyTable``.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_accuracy import ClusterAccuracy
        >>> metric = ClusterAccuracy(num_clusters=2, num_classes=2)
        >>> metric.update(torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 0, 0]))
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the accuracy."""
        return torch.tensor(cluster_accuracy(self.table), device=self.table.device)


def cluster_accuracy(table: Tensor) -> float:
    """Return the share of samples in the class of their cluster; NaN without any sample.

    Args:
        table: (K, C) counts; rows are clusters, columns classes.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_accuracy import cluster_accuracy
        >>> cluster_accuracy(torch.tensor([[1, 2, 0], [1, 0, 0]]))
        0.75
    """
    match = match_clusters(table)
    right = table[match >= 0, match[match >= 0]].sum()
    return float(right.double() / table.sum())
