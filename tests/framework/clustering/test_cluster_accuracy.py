"""Accuracy of clusters under the best one-to-one assignment."""

import math

import pytest
import torch
import torch.distributed as dist

from framework.clustering.cluster_accuracy import ClusterAccuracy, cluster_accuracy


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[0, 5], [5, 0]], 1.0),
        # 8 + 8 of 25, where a greedy assignment has 9 + 0
        ([[9, 8], [8, 0]], 16 / 25),
        # one cluster for all: the largest class counts
        ([[2, 3, 5], [0, 0, 0], [0, 0, 0]], 0.5),
        # clusters and classes that are left over are wrong
        ([[4, 0], [0, 4], [1, 1]], 0.8),
        ([[4, 0, 1], [0, 4, 1]], 0.8),
        ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], 1 / 3),
    ],
)
def test_worked_tables(table: list[list[int]], expected: float) -> None:
    counts = torch.tensor(table)
    assert cluster_accuracy(counts) == pytest.approx(expected, abs=1e-15)
    # the roles are symmetric, and the numbers of clusters and classes mean nothing
    assert cluster_accuracy(counts.T) == pytest.approx(expected, abs=1e-15)
    assert cluster_accuracy(counts.flip(0)) == pytest.approx(expected, abs=1e-15)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([2, 2, 2, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1, 2, 0])


def test_metric_over_batches() -> None:
    metric = ClusterAccuracy(num_clusters=3, num_classes=4)
    cluster, label = example()
    for rows in (slice(3), slice(3, 3), slice(3, 7)):
        metric.update(cluster[rows], label[rows])
    torch.testing.assert_close(metric.compute(), torch.tensor(5 / 7))
    metric.reset()
    metric.update(cluster[:0], label[:0])
    assert math.isnan(metric.compute())


def of_this_rank(split: int) -> torch.Tensor:
    rows = slice(split) if dist.get_rank() == 0 else slice(split, None)
    cluster, label = example()
    metric = ClusterAccuracy(num_clusters=3, num_classes=4)
    metric.update(cluster[rows], label[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [0, 3])
def test_ranks_share_one_assignment(split: int, two_ranks) -> None:
    for value in two_ranks(of_this_rank, split):
        assert torch.equal(value, torch.tensor(5 / 7))
