"""Cluster sizes and the smallest share."""

import pytest
import torch
import torch.distributed as dist

from framework.clustering.cluster_sizes import ClusterSizes, SmallestClusterFrequency

CLUSTER = torch.tensor([0, 1, 1, 2, 2, 2, 0, 1, 1, 2])


def test_sizes_over_batches() -> None:
    metric = ClusterSizes(num_clusters=4)
    for rows in (slice(4), slice(0), slice(4, 10)):
        metric.update(CLUSTER[rows])
    assert metric.compute().tolist() == [2, 4, 4, 0]


def test_smallest_share() -> None:
    for clusters, expected in ((3, 0.2), (4, 0.0)):
        metric = SmallestClusterFrequency(clusters)
        metric.update(CLUSTER)
        torch.testing.assert_close(metric.compute(), torch.tensor(expected))
    metric = SmallestClusterFrequency(5)
    metric.update(torch.arange(5).repeat(3))
    torch.testing.assert_close(metric.compute(), torch.tensor(1 / 5))
    metric.reset()
    metric.update(CLUSTER[:0])
    assert metric.compute().isnan()


def of_this_rank(split: int) -> torch.Tensor:
    metric = SmallestClusterFrequency(3)
    metric.update(CLUSTER[:split] if dist.get_rank() == 0 else CLUSTER[split:])
    return metric.compute()


@pytest.mark.parametrize("split", [0, 6])
def test_the_smallest_of_all_ranks(split: int, two_ranks) -> None:
    # of a rank alone it is another one
    for value in two_ranks(of_this_rank, split):
        torch.testing.assert_close(value, torch.tensor(0.2))


def test_bad_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clusters must be in 0\.\.1, got 0\.\.2"):
        ClusterSizes(2).update(CLUSTER)
    with pytest.raises(ValueError, match=r"0\.\.2, got -1\.\.1"):
        SmallestClusterFrequency(3).update(CLUSTER[:3] - 1 + torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="num_clusters must be at least 1, got 0"):
        ClusterSizes(0)
