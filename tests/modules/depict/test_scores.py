"""What is measured of a clustering equals scikit-learn, with labels, without and without rows."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score
from torch import Tensor
from torchmetrics import MetricCollection

from framework.data.datasets import Batch
from framework.metrics.embedding_sample import EmbeddingSnapshot
from modules.depict.scores import (
    LABELED,
    agreement,
    cluster_metrics,
    measure,
    sample_codes,
    stage_scores,
)

N, K, C = 700, 4, 3
GENERATOR = torch.Generator().manual_seed(0)
LABEL = torch.randint(C, (N,), generator=GENERATOR)
# clusters know something of the classes
ASSIGNMENT = (
    1.5 * torch.randn(N, K, generator=GENERATOR) + 2 * torch.eye(K)[(LABEL + 1) % K]
).softmax(1)
CLUSTER = ASSIGNMENT.argmax(1)
CODE = torch.randn(N, K, generator=GENERATOR)
IMAGE = torch.randn(N, 1, 2, 2, generator=GENERATOR)


def part(rows: slice, labeled: bool = True) -> tuple[Batch, Tensor, Tensor]:
    batch = {"image": IMAGE[rows], "index": torch.arange(N)[rows]}
    if labeled:
        batch["label"] = LABEL[rows]
    return batch, CODE[rows], ASSIGNMENT[rows]


def collected(*arguments: Any) -> MetricCollection:
    return MetricCollection(cluster_metrics(*arguments), compute_groups=False)


def accuracy(cluster: Tensor, label: Tensor, clusters: int) -> float:
    """Under the best of all assignments of classes to clusters; -1 for those without."""
    best = max(
        sum(int(((cluster == k) & (label == c)).sum()) for k, c in enumerate(classes))
        for classes in set(permutations([*range(int(label.max()) + 1), *[-1] * clusters], clusters))
    )
    return best / len(label)


def test_the_metrics_of_an_evaluation() -> None:
    metrics = collected(K, (1, 2, 2), C)
    for rows in (slice(0, 300), slice(300, 300), slice(300, None)):
        measure(metrics, *part(rows))
    values = metrics.compute()
    assert float(values["accuracy"]) == pytest.approx(accuracy(CLUSTER, LABEL, K))
    assert 0.5 < float(values["accuracy"]) < 0.9
    expected = normalized_mutual_info_score(LABEL, CLUSTER, average_method="geometric")
    assert float(values["nmi_geometric"]) == pytest.approx(expected)
    assert float(values["adjusted_rand"]) == pytest.approx(adjusted_rand_score(LABEL, CLUSTER))
    assert values["confusion"].tolist() == confusion_matrix(CLUSTER, LABEL)[:, :C].tolist()
    sizes = CLUSTER.bincount(minlength=K)
    assert values["sizes"].tolist() == sizes.tolist()
    assert float(values["smallest_cluster"]) == pytest.approx(int(sizes.min()) / N)
    assert float(values["max_probability"]) == pytest.approx(float(ASSIGNMENT.amax(1).mean()))
    frequency = float(ASSIGNMENT.mean(0).min())
    assert float(values["smallest_frequency"]) == pytest.approx(frequency)
    images, filled = values["samples"]
    assert filled.all()
    for k in range(K):
        most = ASSIGNMENT[:, k].masked_fill(k != CLUSTER, -1).topk(images.shape[1]).indices
        assert torch.equal(images[k], IMAGE[most])
    code, cluster, label = values["codes"]
    assert len(code) == 500
    rows = [int((row == CODE).all(1).nonzero()) for row in code]
    assert torch.equal(cluster, CLUSTER[rows])
    assert torch.equal(label, LABEL[rows])


def test_without_labels_nothing_is_compared_with_them() -> None:
    metrics = collected(K, (1, 2, 2), None)
    measure(metrics, *part(slice(None), labeled=False))
    values = metrics.compute()
    assert set(values) == {
        "smallest_cluster",
        "smallest_frequency",
        "max_probability",
        "sizes",
        "samples",
        "codes",
    }
    assert not set(LABELED) & set(values)
    assert (values["codes"].label == -1).all()
    # unlabeled or not, the rest is the same
    labeled = collected(K, (1, 2, 2), C)
    measure(labeled, *part(slice(None)))
    assert set(labeled.compute()) == set(values) | set(LABELED)
    for name in ("smallest_cluster", "max_probability", "sizes"):
        assert torch.equal(labeled.compute()[name], values[name])


@pytest.mark.parametrize("labeled", [True, False])
def test_no_rows_at_all(labeled: bool) -> None:
    metrics = collected(K, (1, 2, 2), C if labeled else None)
    measure(metrics, *part(slice(0, 0), labeled))
    values = metrics.compute()
    assert values["sizes"].tolist() == [0] * K
    assert not values["samples"].filled.any()
    assert [len(kept) for kept in values["codes"]] == [0, 0, 0]
    means = {"smallest_cluster", "smallest_frequency", "max_probability", "accuracy"}
    for name in means & set(values):
        assert values[name].isnan()


def test_a_reset_forgets_the_evaluation_before() -> None:
    metrics = collected(K, (1, 2, 2), C)
    measure(metrics, *part(slice(0, 400)))
    metrics.compute()
    metrics.reset()
    measure(metrics, *part(slice(400, None)))
    expected = normalized_mutual_info_score(LABEL[400:], CLUSTER[400:], average_method="geometric")
    assert float(metrics.compute()["nmi_geometric"]) == pytest.approx(expected)
    assert int(metrics.compute()["sizes"].sum()) == 300


def test_the_scores_between_phases_are_those_of_an_evaluation() -> None:
    metrics = collected(K, (1, 2, 2), C)
    measure(metrics, *part(slice(None)))
    values = metrics.compute()
    scores = stage_scores(CLUSTER, LABEL, K)
    assert list(scores) == ["accuracy", "nmi_geometric"]
    for name, value in scores.items():
        assert isinstance(value, float)
        assert value == pytest.approx(float(values[name]))


def test_empty_clusters_and_classes_do_not_matter() -> None:
    scores = stage_scores(torch.tensor([5, 5, 1, 1]), torch.tensor([0, 0, 7, 7]), 9)
    assert scores == {"accuracy": 1.0, "nmi_geometric": 1.0}


def test_agreement_is_the_mutual_information_over_the_geometric_mean() -> None:
    other = torch.where(torch.arange(N) % 3 == 0, CLUSTER, LABEL + 4)
    expected = normalized_mutual_info_score(other, CLUSTER, average_method="geometric")
    assert agreement(CLUSTER, other) == pytest.approx(expected)
    assert agreement(other, CLUSTER) == pytest.approx(expected)
    assert agreement(CLUSTER, 3 - CLUSTER) == pytest.approx(1)
    assert agreement(torch.zeros(9, dtype=torch.int64), torch.arange(9)) == 0


@pytest.mark.parametrize("rows", [1, 5])
def test_a_table_of_one_cell(rows: int) -> None:
    zeros = torch.zeros(rows, dtype=torch.int64)
    assert agreement(zeros, zeros) == 1
    assert stage_scores(zeros, zeros, 1) == {"accuracy": 1.0, "nmi_geometric": 1.0}


@pytest.mark.parametrize("label", [LABEL, None])
def test_the_codes_are_those_that_an_evaluation_keeps(label: Tensor | None) -> None:
    metrics = collected(K, (1, 2, 2), None if label is None else C)
    measure(metrics, *part(slice(None), label is not None))
    expected = metrics.compute()["codes"]
    found = sample_codes(CODE, CLUSTER, torch.arange(N), label)
    assert isinstance(found, EmbeddingSnapshot)
    assert all(map(torch.equal, found, expected))
