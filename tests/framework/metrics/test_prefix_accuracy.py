"""Accuracy per prefix over batches and ranks, and the choice of a prefix."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from framework.metrics.prefix_accuracy import PrefixAccuracy, best_prefix


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (11,), generator=generator)
    return torch.randint(3, (4, 11), generator=generator), target


def test_every_prefix_has_the_accuracy_that_torchmetrics_gives() -> None:
    predictions, target = example()
    metric = PrefixAccuracy(4)
    for rows in torch.arange(11).split(4):
        metric.update(predictions[:, rows], target[rows])
    for k in range(4):
        expected = multiclass_accuracy(predictions[k], target, 3, average="micro")
        torch.testing.assert_close(metric.compute()[k], expected)
    metric.reset()
    assert int(metric.total) == 0
    assert not metric.correct.any()


def test_rows_to_be_ignored_do_not_count() -> None:
    predictions, target = example()
    metric, alone = PrefixAccuracy(4), PrefixAccuracy(4)
    metric.update(predictions, target.masked_fill(torch.arange(11) < 3, -100))
    alone.update(predictions[:, 3:], target[3:])
    assert torch.equal(metric.compute(), alone.compute())


def accuracy_of(counts: list[int]) -> torch.Tensor:
    """Return the metric of this rank's slice of the example."""
    from framework.distributed.collectives import rank

    predictions, target = example()
    start = sum(counts[: rank()])
    rows = slice(start, start + counts[rank()])
    metric = PrefixAccuracy(4)
    metric.update(predictions[:, rows], target[rows])
    return metric.compute()


@pytest.mark.parametrize("counts", [[6, 5], [8, 3], [0, 11]])
def test_ranks_add_up(counts: list[int], two_ranks) -> None:
    metric = PrefixAccuracy(4)
    metric.update(*example())
    for value in two_ranks(accuracy_of, counts):
        assert torch.equal(value, metric.compute())


def test_of_equal_prefixes_the_shortest_is_chosen() -> None:
    assert best_prefix(torch.tensor([0.1, 0.9, 0.9, 0.2])) == 2
    assert best_prefix(torch.tensor([0.5, 0.5]), penalty=0) == 1


def test_a_channel_costs_the_penalty() -> None:
    # a gain of 1.5e-5 pays for one channel of 1e-5, and not for two
    assert best_prefix(torch.tensor([0.5, 0.5 + 1.5e-5], dtype=torch.float64)) == 2
    assert best_prefix(torch.tensor([0.5, 0.5, 0.5 + 1.5e-5], dtype=torch.float64)) == 1
    assert best_prefix(torch.tensor([0.5, 0.9]), penalty=0.5) == 1


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, B\) = \(4, 11\), got \(3, 11\)"):
        PrefixAccuracy(4).update(torch.zeros(3, 11), torch.zeros(11))
    with pytest.raises(ValueError, match="num_prefixes must be at least 1"):
        PrefixAccuracy(0)
