import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.metrics.bag_calibration import BagCalibrationError

GROUP = torch.tensor([3, 0, 0, 3, 3, 1, 0, 3])  # bag 2 has no row


def make(outputs=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (8,) if outputs is None else (8, outputs)
    return torch.randn(2, *shape, generator=generator).unbind()


def by_hand(predictions, targets):
    error = 0.0
    for bag in GROUP.unique():
        members = bag == GROUP
        gap = predictions[members].mean(0) - targets[members].mean(0)
        error += float(gap.abs().mean()) * int(members.sum()) / len(GROUP)
    return error


@pytest.mark.parametrize("outputs", [None, 1, 3])
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, 8), max_size=3))
def test_is_the_weighted_mean_over_bags_however_they_are_cut(outputs, cuts):
    predictions, targets = make(outputs)
    metric = BagCalibrationError(num_bags=5, num_outputs=outputs or 1)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 8], strict=True):
        rows = slice(start, stop)
        metric.update(predictions[rows], targets[rows], GROUP[rows])
    assert float(metric.compute()) == pytest.approx(by_hand(predictions, targets))


def test_means_stand_for_individual_responses():
    predictions, targets = make()
    means = torch.stack([targets[group == GROUP].mean() for group in GROUP])
    values = []
    for given_targets in (targets, means):
        metric = BagCalibrationError(num_bags=4)
        metric.update(predictions, given_targets, GROUP)
        values.append(float(metric.compute()))
    assert values[0] == pytest.approx(values[1])


def test_single_rows_give_the_mean_absolute_error():
    predictions, targets = make()
    metric = BagCalibrationError(num_bags=8)
    metric.update(predictions, targets, torch.arange(8))
    torch.testing.assert_close(metric.compute(), (predictions - targets).abs().mean())
    metric.reset()
    metric.update(predictions[:0], targets[:0], GROUP[:0])
    assert metric.compute().isnan()


def share(split):
    """Return the error of all ranks, of which the first holds ``split`` rows."""
    rows = slice(split) if dist.get_rank() == 0 else slice(split, 8)
    predictions, targets = make()
    metric = BagCalibrationError(num_bags=4)
    metric.update(predictions[rows], targets[rows], GROUP[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [3, 8])
def test_ranks_may_share_a_bag(split, two_ranks):
    for value in two_ranks(share, split):
        assert float(value) == pytest.approx(by_hand(*make()))


def test_bad_arguments():
    predictions, targets = make()
    with pytest.raises(ValueError, match="num_bags must be at least 1, got 0"):
        BagCalibrationError(num_bags=0)
    with pytest.raises(ValueError, match=r"one shape and a group per row, got \(8,\), \(8, 1\)"):
        BagCalibrationError(4).update(predictions, targets[:, None], GROUP)
    with pytest.raises((IndexError, RuntimeError), match="index 3 is out of bounds"):
        BagCalibrationError(3).update(predictions, targets, GROUP)
