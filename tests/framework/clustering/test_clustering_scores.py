"""NMI and ARI are scikit-learn's, to the last digits, and those of all ranks."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from framework.clustering.clustering_scores import (
    AdjustedRandScore,
    AverageMethod,
    NormalizedMutualInfoScore,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

METHODS = get_args(AverageMethod)
EDGE_CASES = {
    "one cluster, one class": [[7]],
    "one cluster": [[3, 4]],
    "one class": [[3], [4]],
    "one cluster of three": [[0, 0], [3, 4], [0, 0]],
    "the same": [[5, 0, 0], [0, 0, 2], [0, 9, 0]],
    "the same, with an empty class": [[5, 0, 0], [0, 0, 2]],
    "independent": [[2, 4], [3, 6]],
    "one sample": [[0, 1]],
    "all single": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "all single in one class": [[1], [1], [1]],
    "negative": [[1, 1], [1, 1]],
}


def labels_of(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array(table)
    cluster, label = np.indices(counts.shape)
    return np.repeat(cluster, counts.ravel()), np.repeat(label, counts.ravel())


def check_against_scikit_learn(table: list[list[int]]) -> None:
    counts, (cluster, label) = torch.tensor(table), labels_of(table)
    expected = sklearn_metrics.adjusted_rand_score(label, cluster)
    assert adjusted_rand_score(counts) == pytest.approx(expected, abs=1e-12)
    for method in METHODS:
        expected = sklearn_metrics.normalized_mutual_info_score(
            label, cluster, average_method=method
        )
        found = normalized_mutual_info_score(counts, method)
        assert found == pytest.approx(expected, abs=1e-12), method
        assert 0 <= found <= 1


@pytest.mark.parametrize("table", EDGE_CASES.values(), ids=EDGE_CASES)
def test_edge_cases(table: list[list[int]]) -> None:
    check_against_scikit_learn(table)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5)
    .flatmap(
        lambda classes: st.lists(
            st.lists(st.integers(0, 30), min_size=classes, max_size=classes), min_size=1, max_size=5
        )
    )
    .filter(lambda table: sum(map(sum, table)) > 0)
)
def test_tables(table: list[list[int]]) -> None:
    check_against_scikit_learn(table)


def test_many_samples_overflow_nothing() -> None:
    # 4e9 samples in 2 clusters: their pairs, squared, are beyond 64 bits
    table = [[1_900_000_000, 100_000_000], [100_000_000, 1_900_000_000]]
    small = [[n // 100_000 for n in row] for row in table]
    assert adjusted_rand_score(torch.tensor(table)) == pytest.approx(0.81, abs=1e-9)
    assert adjusted_rand_score(torch.tensor(small)) == pytest.approx(0.81, abs=1e-4)
    large, little = (normalized_mutual_info_score(torch.tensor(t)) for t in (table, small))
    assert large == pytest.approx(little, abs=1e-12)


def test_the_mean_makes_a_difference() -> None:
    # H(cluster) = log 2, H(class) = 0.562335 (1/4, 3/4), I = 0.215762
    table = torch.tensor([[0, 2], [1, 1]])
    found = {method: round(normalized_mutual_info_score(table, method), 6) for method in METHODS}
    assert found == {
        "geometric": 0.345592,
        "arithmetic": 0.343711,
        "min": 0.383689,
        "max": 0.311278,
    }


def test_without_samples_there_is_no_score() -> None:
    empty = torch.zeros(2, 3, dtype=torch.int64)
    assert math.isnan(adjusted_rand_score(empty))
    assert math.isnan(normalized_mutual_info_score(empty))


def make(name: str) -> NormalizedMutualInfoScore | AdjustedRandScore:
    if name == "ari":
        return AdjustedRandScore(num_clusters=4, num_classes=3)
    return NormalizedMutualInfoScore(num_clusters=4, num_classes=3, average_method=name)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (40,), generator=generator)
    other = torch.randint(4, (40,), generator=generator)
    return torch.where(torch.rand(40, generator=generator) < 0.7, label, other), label


def expected_of(name: str) -> float:
    cluster, label = example()
    if name == "ari":
        return sklearn_metrics.adjusted_rand_score(label, cluster)
    return sklearn_metrics.normalized_mutual_info_score(label, cluster, average_method=name)


@pytest.mark.parametrize("name", [*METHODS, "ari"])
def test_metric_over_batches(name: str) -> None:
    metric, (cluster, label) = make(name), example()
    for rows in (slice(17), slice(0), slice(17, 40)):
        metric.update(cluster[rows], label[rows])
    assert float(metric.compute()) == pytest.approx(expected_of(name), abs=1e-7)


def of_this_rank(name: str, split: int) -> torch.Tensor:
    rows = slice(split) if dist.get_rank() == 0 else slice(split, None)
    metric, (cluster, label) = make(name), example()
    metric.update(cluster[rows], label[rows])
    return metric.compute()


@pytest.mark.parametrize("name", ["geometric", "ari"])
@pytest.mark.parametrize("split", [0, 15])
def test_ranks_add_up(name: str, split: int, two_ranks) -> None:
    metric = make(name)
    metric.update(*example())
    for value in two_ranks(of_this_rank, name, split):
        assert torch.equal(value, metric.compute())


def test_an_unknown_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of geometric, .* got 'harmonic'"):
        NormalizedMutualInfoScore(2, 2, average_method="harmonic")
    with pytest.raises(ValueError, match="got 'harmonic'"):
        normalized_mutual_info_score(torch.eye(2), "harmonic")
