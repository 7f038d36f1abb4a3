"""How many samples are in every cluster, and how small the smallest is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.clustering.cell_counts import cell_counts, counted_cells
from framework.utilities.checks import check_at_least


class ClusterSizes(Metric):
    """Counts the samples of each cluster; it needs no labels.

    The counts are exact and are added up over ranks, which may have no rows.

    Shapes: ``compute`` returns (K,) int64.

    Args:
        num_clusters: Number of clusters K.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: K below 1, or, at an update, a cluster outside 0..K-1 (on a GPU at ``compute``).

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_sizes import ClusterSizes
        >>> metric = ClusterSizes(num_clusters=3)
        >>> metric.update(torch.tensor([0, 2, 2]))
        >>> metric.compute()
        tensor([1, 0, 2])
    """

    full_state_update = False
    is_differentiable = False
    cells: Tensor

    def __init__(self, num_clusters: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_clusters=num_clusters)
        zeros = torch.zeros(num_clusters + 1, dtype=torch.int64)
        self.add_state("cells", zeros, dist_reduce_fx="sum")

    @property
    def sizes(self) -> Tensor:
        """The counts so far, (K,) int64."""
        return counted_cells(type(self).__name__, self.cells, [len(self.cells) - 1])

    def update(self, cluster: Tensor) -> None:
        """Count a batch.

        Args:
            cluster: (B,) int64, in 0..K-1.
        """
        sizes = [len(self.cells) - 1]
        self.cells += cell_counts(type(self).__name__, {"clusters": cluster}, sizes)

    def compute(self) -> Tensor:
        """Return the counts, (K,) int64."""
        return self.sizes


class SmallestClusterFrequency(ClusterSizes):
    """Share of the samples that is in the smallest cluster: 1/K if balanced, 0 if one is empty.

    It needs no labels, and shows a collapse to few clusters, which scores against classes show
    only where there are some.

    ``compute`` returns a float32 scalar, NaN without any sample. Arguments and errors are those of
    ``ClusterSizes``.

    Example:
        >>> import torch
        >>> from framework.clustering.cluster_sizes import SmallestClusterFrequency
        >>> metric = SmallestClusterFrequency(num_clusters=2)
        >>> metric.update(torch.tensor([0, 1, 1, 1]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the share."""
        return self.sizes.min() / self.sizes.sum()
