import math

import pytest
import torch

from framework.embedding.icnn import icnn_score
from framework.embedding.metrics.few_shot import FewShotAccuracy, few_shot_score
from framework.embedding.metrics.icnn_score import ICNNScore

VALUES = torch.tensor([0.5, 0.6, 0.55, 0.7, 0.65], dtype=torch.float64)


def test_intervals_of_the_worked_example():
    score = few_shot_score(VALUES)
    assert [float(value) for value in score] == pytest.approx([0.6, 0.069296, 0.098162], abs=1e-6)
    population = 1.96 * VALUES.std(correction=0) / math.sqrt(5)
    assert float(population) == pytest.approx(0.061981, abs=1e-6), "the authors' choice"


def test_one_episode_has_no_interval():
    score = few_shot_score(VALUES[:1])
    assert float(score.accuracy) == 0.5
    assert math.isnan(score.ci95)
    assert math.isnan(score.ci95_t)


def episodes(count, first=0):
    generator = torch.Generator().manual_seed(count)
    prediction = torch.randint(2, (count, 10), generator=generator)
    return prediction, torch.zeros_like(prediction), torch.arange(first, first + count)


def test_an_episode_counts_once_in_whatever_order():
    prediction, label, index = episodes(7)
    once = FewShotAccuracy()
    once.update(prediction, label, index)
    twice = FewShotAccuracy()
    for rows in ([6, 2, 1], [0, 1, 2, 3], [5, 4, 0]):
        twice.update(prediction[rows], label[rows], index[rows])
    assert once.compute() == twice.compute()
    expected = few_shot_score((prediction == 0).double().mean(1))
    assert float(once.compute()["accuracy_ci95"]) == pytest.approx(float(expected.ci95), rel=1e-6)


def _of_this_rank():
    import torch.distributed as dist

    metric = FewShotAccuracy()
    if dist.get_rank() == 0:  # the other one has no episode
        metric.update(*episodes(3))
    return metric.compute()


def test_a_rank_may_have_no_episode(two_ranks):
    alone = FewShotAccuracy()
    alone.update(*episodes(3))
    for found in two_ranks(_of_this_rank):
        assert found == alone.compute()


def test_the_score_of_sets_is_their_mean():
    generator = torch.Generator().manual_seed(0)
    points, label = torch.randn(4, 12, 3, generator=generator), torch.arange(12) % 3
    metric = ICNNScore(k=3)
    metric.update(points, label.expand(4, -1))
    metric.update(points[0], label)
    single = torch.stack([icnn_score(one, label, k=3).score for one in [*points, points[0]]])
    torch.testing.assert_close(metric.compute(), single.mean())
