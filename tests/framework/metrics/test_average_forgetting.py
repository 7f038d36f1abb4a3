"""Forgetting: the worked matrix, single tasks, what later tasks help, and two ranks."""

import pytest
import torch
import torch.distributed as dist

from framework.metrics.average_forgetting import AverageForgetting, average_forgetting_of

NAN = float("nan")
TASK = torch.tensor([0, 0, 1, 1, 1, 2])
LABEL = torch.tensor([0, 1, 2, 3, 2, 4])
AFTER = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 2, 3, 0, 0], [4, 4, 2, 4, 4, 4]])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0.9, NAN], [0.5, 0.8]], 0.4),
        ([[0.9, 0.1], [0.5, 0.8]], 0.4),  # a task is not forgotten by the one that learned it
        ([[0.9, NAN, NAN], [0.5, 0.8, NAN], [0.7, 0.9, 0.8]], 0.05),  # .2 lost and .1 gained
        ([[0.2, NAN, NAN], [0.6, NAN, NAN], [0.5, 0.3, 0.8]], 0.1),  # task 1 was not measured
    ],
)
def test_worked_numbers(matrix, expected):
    assert float(average_forgetting_of(torch.tensor(matrix))) == pytest.approx(expected, abs=1e-6)


def measured(rows=slice(None)):
    metric = AverageForgetting(num_tasks=3)
    for learned, predictions in enumerate(AFTER):
        metric.update(predictions[rows], LABEL[rows], TASK[rows], learned)
    return metric


def test_counts_the_rows_of_each_task():
    metric = measured()
    expected = torch.tensor([[1, 0, 0], [0.5, 2 / 3, 0], [0, 1 / 3, 1]])
    torch.testing.assert_close(metric.matrix(), expected)
    assert float(metric.compute()) == pytest.approx((1 + 1 / 3) / 2)
    assert float(metric.final_accuracy()) == pytest.approx(4 / 9)


def test_scores_are_taken_by_the_largest():
    metric = AverageForgetting(num_tasks=1)
    metric.update(torch.eye(5)[[0, 4]], torch.tensor([0, 1]), torch.tensor([0, 0]), learned=0)
    assert metric.matrix().tolist() == [[0.5]]
    assert metric.compute().isnan()


def share_of_rows(split):
    metric = measured(slice(split) if dist.get_rank() == 0 else slice(split, 6))
    return metric.compute()


@pytest.mark.parametrize("split", [3, 0])
def test_two_ranks_are_one(split, two_ranks):
    for value in two_ranks(share_of_rows, split):
        assert float(value) == float(measured().compute())


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_tasks must be at least 1, got 0"):
        AverageForgetting(0)
    with pytest.raises(ValueError, match=r"learned must be in 0\.\.1, the tasks, got 2"):
        AverageForgetting(2).update(LABEL, LABEL, TASK, learned=2)
