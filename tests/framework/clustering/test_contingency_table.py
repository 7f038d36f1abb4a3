"""Counts per cluster and class, and the best one-to-one assignment."""

import itertools

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import contingency_matrix

from framework.clustering.contingency_table import ContingencyTable, match_clusters

TABLES = st.integers(1, 4).flatmap(
    lambda classes: st.lists(
        st.lists(st.integers(0, 9), min_size=classes, max_size=classes), min_size=1, max_size=4
    )
)


def drawn(rows: int = 50, clusters: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cluster = torch.randint(clusters, (rows,), generator=generator)
    return cluster, torch.randint(classes, (rows,), generator=generator)


def test_counts_are_those_of_scikit_learn_however_the_rows_are_cut() -> None:
    cluster, label = drawn()
    metric = ContingencyTable(4, 3)
    for rows in (slice(0), slice(7), slice(7, 50)):
        metric.update(cluster[rows], label[rows])
    expected = contingency_matrix(cluster, label)
    assert metric.compute().tolist() == expected.tolist()
    metric.reset()
    metric.update(cluster[:0], label[:0])
    assert metric.compute().tolist() == torch.zeros(4, 3).tolist()


def of_this_rank(split: int) -> torch.Tensor:
    cluster, label = drawn()
    rows = slice(split) if dist.get_rank() == 0 else slice(split, None)
    metric = ContingencyTable(4, 3)
    metric.update(cluster[rows], label[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [0, 21])
def test_ranks_add_up(split: int, two_ranks) -> None:
    metric = ContingencyTable(4, 3)
    metric.update(*drawn())
    for table in two_ranks(of_this_rank, split):
        assert torch.equal(table, metric.compute())


@settings(max_examples=60, deadline=None)
@given(table=TABLES)
def test_no_other_assignment_has_more_samples(table: list[list[int]]) -> None:
    counts = torch.tensor(table)
    match = match_clusters(counts)
    matched = match[match >= 0].tolist()
    assert len(set(matched)) == len(matched)
    found = sum(table[k][c] for k, c in enumerate(match.tolist()) if c >= 0)
    wide = counts if counts.shape[0] <= counts.shape[1] else counts.T
    assignments = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    assert found == max(sum(int(wide[k, c]) for k, c in enumerate(a)) for a in assignments)


def test_clusters_left_over_stand_for_no_class() -> None:
    # a greedy assignment would take 9 and 0
    assert match_clusters(torch.tensor([[9, 8], [8, 0], [1, 1]])).tolist() == [1, 0, -1]
    assert match_clusters(torch.tensor([[0, 0, 4]])).tolist() == [2]
    # nothing of class 1 is in cluster 1
    assert match_clusters(torch.tensor([[3, 1], [2, 0]])).tolist() == [0, -1]
    assert match_clusters(torch.zeros(2, 2, dtype=torch.int64)).tolist() == [-1, -1]


def test_what_would_be_counted_elsewhere_is_refused() -> None:
    metric = ContingencyTable(2, 3)
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got -1\.\.0"):
        metric.update(zeros, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match=r"clusters must be in 0\.\.1, got 0\.\.2"):
        metric.update(torch.tensor([0, 2]), zeros)
    with pytest.raises(ValueError, match=r"one shape \(B,\), got \(2,\) and \(2, 1\)"):
        metric.update(zeros, zeros[:, None])
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ContingencyTable(2, 0)
