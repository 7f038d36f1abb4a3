"""F1 of a clustering: scikit-learn's of the matched labels, and the corners."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score

from framework.clustering import ClusterF1Score, cluster_f1_score, match_clusters


@pytest.mark.parametrize(("clusters", "seed"), [(4, 0), (6, 1), (3, 2)])
def test_it_is_scikit_learns_of_the_matched_classes(clusters: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (200,), generator=generator)
    noise = torch.randint(clusters, (200,), generator=generator)
    cluster = torch.where(torch.rand(200, generator=generator) < 0.6, label % clusters, noise)
    metric = ClusterF1Score(clusters, 4)
    metric.update(cluster, label)
    predicted = match_clusters(metric.table)[cluster]
    expected = f1_score(label, predicted, labels=range(4), average="macro", zero_division=0.0)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_an_empty_cluster_gets_no_samples_of_others() -> None:
    # the class 1 has no cluster of its own, and its samples are not moved to the empty one
    assert cluster_f1_score(torch.tensor([[6, 2], [0, 0]])) == pytest.approx(12 / 14 / 2)


def test_no_sample_has_no_score() -> None:
    assert math.isnan(cluster_f1_score(torch.zeros(2, 2, dtype=torch.int64)))
