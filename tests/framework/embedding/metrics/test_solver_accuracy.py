"""Accuracies of several solvers, with the best of their settings."""

from __future__ import annotations

import pytest
import torch

from framework.embedding.metrics.few_shot import few_shot_score
from framework.embedding.metrics.first_episode import FirstEpisode
from framework.embedding.metrics.solver_accuracy import SolverAccuracy

SETTINGS = {"near": (), "one": (0.7,), "grid": (0.1, 0.5, 1.0)}
RATES = torch.tensor(
    [[0.2, 0.4, 0.1, 0.6, 0.6], [0.4, 0.8, 0.3, 0.8, 0.8], [0.6, 0.6, 0.2, 0.4, 0.4]]
)


def test_each_solver_has_its_accuracy_and_interval():
    metric = SolverAccuracy(SETTINGS)
    metric.update(RATES, torch.arange(3))
    values = metric.compute()
    for name, column in (("near", 0), ("one", 1), ("grid", 3)):
        score = few_shot_score(RATES[:, column])
        assert float(values[f"accuracy@{name}"]) == pytest.approx(float(score.accuracy))
        assert float(values[f"ci95@{name}"]) == pytest.approx(float(score.ci95))
    # of equal settings the first one
    assert float(values["lambda@grid"]) == pytest.approx(0.5)
    assert float(values["lambda@one"]) == pytest.approx(0.7)
    assert values["curve@grid"].tolist() == pytest.approx([0.2, 0.6, 0.6])
    assert not {"lambda@near", "curve@near", "curve@one"} & set(values)


def test_order_and_repeated_episodes_do_not_matter():
    whole, parts = SolverAccuracy(SETTINGS), SolverAccuracy(SETTINGS)
    whole.update(RATES, torch.arange(3))
    parts.update(RATES[[2]], torch.tensor([2]))
    parts.update(RATES[[1, 0]], torch.tensor([1, 0]))
    parts.update(RATES[[2]], torch.tensor([2]))
    one, other = whole.compute(), parts.compute()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_other_settings_take_other_columns():
    metric = SolverAccuracy({"slk": ()})
    metric.run_with({"slk": (0.1, 0.2)})
    metric.update(torch.tensor([[0.5, 0.25]]), torch.tensor([0]))
    assert float(metric.compute()["accuracy@slk"]) == 0.5


def test_without_an_episode_nothing_is_known():
    scores, first = SolverAccuracy(SETTINGS), FirstEpisode(4)
    scores.update(RATES[:0], torch.arange(0))
    assert torch.isnan(scores.compute()["accuracy@grid"])
    label = torch.zeros(0, 3, dtype=torch.int64)
    first.update(torch.zeros(0, 3, 4), label, label[:, 1:], torch.arange(0))
    assert first.compute() == {}


def test_the_episode_of_number_0_is_kept_from_any_batch():
    metric = FirstEpisode(2)
    features = torch.arange(24.0).view(3, 4, 2)
    label = torch.tensor([[0, 1, 1, 0]]).expand(3, -1)
    predicted = torch.tensor([[1, 1], [0, 0], [0, 1]])
    metric.update(features[:1], label[:1], predicted[:1], torch.tensor([2]))
    metric.update(features[1:], label[1:], predicted[1:], torch.tensor([1, 0]))
    found = metric.compute()["episode"]
    assert torch.equal(found.features, features[2])
    assert found.label.tolist() == [0, 1, 1, 0]
    assert found.predicted.tolist() == [0, 1, 0, 1]
    assert found.supports == 2
