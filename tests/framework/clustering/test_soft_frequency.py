"""The smallest share of the soft assignments."""

import pytest
import torch
import torch.distributed as dist

from framework.clustering.soft_frequency import SmallestSoftFrequency

ASSIGNMENT = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])


def test_it_is_the_mean_probability_of_the_rarest_cluster() -> None:
    metric = SmallestSoftFrequency(3)
    for rows in (slice(1), slice(0), slice(1, 4)):
        metric.update(ASSIGNMENT[rows])
    torch.testing.assert_close(metric.compute(), torch.tensor(1.1 / 4))
    # cluster 1 is the likeliest of a quarter of the samples
    assert float((ASSIGNMENT.argmax(1) == 1).float().mean()) == 0.25


def test_one_hot_assignments_count_samples() -> None:
    metric = SmallestSoftFrequency(3)
    metric.update(torch.eye(3)[[0, 0, 1, 2, 2]])
    torch.testing.assert_close(metric.compute(), torch.tensor(0.2))
    metric.reset()
    metric.update(ASSIGNMENT[:0])
    assert metric.compute().isnan()


def of_this_rank(split: int) -> torch.Tensor:
    metric = SmallestSoftFrequency(3)
    metric.update(ASSIGNMENT[:split] if dist.get_rank() == 0 else ASSIGNMENT[split:])
    return metric.compute()


@pytest.mark.parametrize("split", [0, 1, 4])
def test_two_ranks_are_one(split, two_ranks) -> None:
    for found in two_ranks(of_this_rank, split):
        torch.testing.assert_close(found, torch.tensor(1.1 / 4))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        SmallestSoftFrequency(0)
    with pytest.raises(ValueError, match=r"\(B, 4\)"):
        SmallestSoftFrequency(4).update(ASSIGNMENT)
