"""How many samples of every class are in every cluster, and which class each cluster stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.clustering.cell_counts import cell_counts, counted_cells
from framework.utilities.checks import check_at_least


class ContingencyTable(Metric):
    """Counts the samples of each pair of a cluster and a class.

    Every score that compares clusters with classes is a function of this table, and subclasses
    return one. The counts are exact and are added up over ranks, which may have no rows.

    Shapes: ``compute`` returns (K, C) int64; rows are clusters, columns classes.

    Args:
        num_clusters: Number of clusters K.
        num_classes: Number of classes C, which need not be K.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: K or C below 1; or, at an update, clusters and labels of other shapes or outside
            0..K-1 and 0..C-1 (on a GPU at ``compute``).

    Example:
        >>> import torch
        >>> from framework.clustering.contingency_table import ContingencyTable
        >>> metric = ContingencyTable(num_clusters=2, num_classes=3)
        >>> metric.update(torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 0, 1]))
        >>> metric.compute()
        tensor([[0, 0, 2],
                [1, 1, 0]])
    """

    full_state_update = False
    is_differentiable = False
    cells: Tensor

    def __init__(self, num_clusters: int, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_clusters=num_clusters, num_classes=num_classes)
        self._shape = (num_clusters, num_classes)
        zeros = torch.zeros(num_clusters * num_classes + 1, dtype=torch.int64)
        self.add_state("cells", zeros, dist_reduce_fx="sum")

    @property
    def table(self) -> Tensor:
        """The counts so far, (K, C) int64."""
        return counted_cells(type(self).__name__, self.cells, self._shape)

    def update(self, cluster: Tensor, label: Tensor) -> None:
        """Count a batch.

        Args:
            cluster: (B,) int64, in 0..K-1.
            label: (B,) int64, in 0..C-1.
        """
        if cluster.shape != label.shape or cluster.ndim != 1:
            raise ValueError(
                f"{type(self).__name__} takes clusters and labels of one shape (B,), got "
                f"{tuple(cluster.shape)} and {tuple(label.shape)}."
            )
        values = {"clusters": cluster, "labels": label}
        self.cells += cell_counts(type(self).__name__, values, self._shape)

    def compute(self) -> Tensor:
        """Return the counts, (K, C) int64."""
        return self.table


def match_clusters(table: Tensor) -> Tensor:
    """Return the class that each cluster stands for, by the best one-to-one assignment.

    The assignment has the largest possible number of samples in the pairs of a cluster and its
    class. A cluster that gets no class, or that has no sample of the class it gets, stands for
    none.

    Args:
        table: (K, C) counts; rows are clusters, columns classes.

    Returns:
        (K,) int64 on the table's device: the class, or -1. No class occurs twice.

    Example:
        >>> import torch
        >>> from framework.clustering.contingency_table import match_clusters
        >>> match_clusters(torch.tensor([[0, 9], [5, 8], [1, 0]]))
        tensor([ 1,  0, -1])
    """
    from scipy.optimize import linear_sum_assignment

    counts = table.cpu()
    pairs = linear_sum_assignment(counts.numpy(), maximize=True)
    clusters, classes = map(torch.from_numpy, pairs)
    match = torch.full((len(counts),), -1)
    match[clusters] = torch.where(counts[clusters, classes] > 0, classes, -1)
    return match.to(table.device)
