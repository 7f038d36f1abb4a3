"""Accuracy on base and on novel classes."""

import pytest
import torch
import torch.distributed as dist

from framework.embedding.metrics.novel_class_accuracy import NovelClassAccuracy

# base classes 0 and 1, novel classes 2 and 3
SCORES = torch.tensor(
    [
        [9, 1, 0, 0],  # base, right
        [2, 1, 3, 0],  # base, taken for a novel one
        [0, 5, 4, 1],  # novel, drawn to a base class, right among the novel ones
        [0, 1, 2, 3],  # novel, right
        [3, 0, 2, 1],  # novel, wrong in both
    ]
).float()
LABELS = torch.tensor([0, 1, 2, 3, 3])
EXPECTED = {
    "disjoint": 2 / 3,
    "joint": 2 / 5,
    "joint_on_base": 1 / 2,
    "joint_on_novel": 1 / 3,
    "harmonic_mean": 2 / 5,
}


def values(metric: NovelClassAccuracy) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def test_scenarios() -> None:
    metric = NovelClassAccuracy(num_base=2)
    for rows in (slice(2), slice(2, 2), slice(2, 5)):
        metric.update(SCORES[rows], LABELS[rows])
    assert values(metric) == pytest.approx(EXPECTED)


def test_what_is_not_there_has_no_value() -> None:
    metric = NovelClassAccuracy(num_base=2)
    metric.update(SCORES[:0], LABELS[:0])
    assert values(metric) == {}
    metric.update(SCORES[:2], LABELS[:2])
    assert values(metric) == {"joint_on_base": 0.5, "joint": 0.5}
    metric.reset()
    # both kinds wrong
    metric.update(SCORES[[1, 2]], LABELS[[1, 2]])
    assert values(metric)["harmonic_mean"] == 0


def of_this_rank() -> dict[str, float]:
    metric = NovelClassAccuracy(num_base=2)
    if dist.get_rank() == 1:
        metric.update(SCORES, LABELS)
    return values(metric)


def test_two_ranks_are_one(two_ranks) -> None:
    for found in two_ranks(of_this_rank):
        assert found == pytest.approx(EXPECTED)
