"""Ranks of features: the worked numbers, their limits, and the same on any number of ranks."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.metrics.effective_rank import EffectiveRank, effective_rank_of
from framework.metrics.stable_rank import StableRank, energy_rank_of, stable_rank_of

BOTH = [(EffectiveRank, effective_rank_of), (StableRank, stable_rank_of)]


def features(rows=40, size=6, offset=3.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, size, generator=generator) * torch.arange(1, size + 1) + offset


def with_singular_values(values, rows=20):
    """Return centered features (rows, K) of given singular values."""
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(rows, len(values), generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator)).Q
    return left @ torch.diag(torch.tensor(values).double()) @ right.double()


def measured(metric, *batches):
    for batch in batches:
        metric.update(batch)
    return float(metric.compute())


def test_worked_numbers():
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    assert float(effective_rank_of(values)) == pytest.approx(2.749459, abs=1e-6)
    assert float(effective_rank_of(values).log()) == pytest.approx(1.011404, abs=1e-6)
    assert float(stable_rank_of(values)) == pytest.approx(14 / 9, abs=1e-12)
    z = with_singular_values([3.0, 2.0, 1.0])
    assert measured(EffectiveRank(3), z) == pytest.approx(2.749459, abs=1e-6)
    assert measured(StableRank(3), z) == pytest.approx(1.555556, abs=1e-6)


@pytest.mark.parametrize("kind", [EffectiveRank, StableRank])
def test_equal_singular_values_count_and_a_line_is_one(kind):
    assert measured(kind(5), with_singular_values([2.0] * 5)) == pytest.approx(5, abs=1e-5)
    line = torch.outer(torch.arange(7.0), torch.tensor([1.0, -2.0, 0.5, 3.0])) + 10
    assert measured(kind(4), line) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", [EffectiveRank, StableRank])
def test_features_without_a_direction_are_zero_and_none_is_nan(kind):
    assert measured(kind(3), torch.full((5, 3), 0.1)) == 0
    assert measured(kind(3), torch.zeros(5, 3)) == 0
    assert measured(kind(3), torch.ones(1, 3)) == 0
    # sums of many equal rows are rounded the same way again and again
    assert measured(kind(3), *torch.full((60_000, 3), 0.1).double().split(128)) == 0
    assert measured(kind(3), torch.zeros(0, 3)) != measured(kind(3), torch.zeros(0, 3))


@pytest.mark.parametrize(("kind", "function"), BOTH)
@settings(max_examples=8, deadline=None)
@given(cut=st.integers(0, 40), offset=st.floats(-100, 100), scale=st.floats(1e-3, 1e3))
def test_is_that_of_the_centered_features_however_they_are_cut(kind, function, cut, offset, scale):
    z = (features() + offset) * scale
    expected = function(torch.linalg.svdvals(z.double() - z.double().mean(0)))
    assert measured(kind(6), z[:cut], z[cut:]) == pytest.approx(float(expected), rel=1e-5)


def test_the_mean_does_not_count():
    far = features(offset=1e3)
    near = torch.linalg.svdvals(far)
    assert measured(EffectiveRank(6), far) == pytest.approx(
        measured(EffectiveRank(6), features(offset=0.0)), abs=1e-3
    )
    assert float(effective_rank_of(near)) < 1.2  # what the uncentered features would have


def test_directions_that_hold_the_energy():
    values = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    assert [int(energy_rank_of(values, share)) for share in (0.6, 0.9, 0.93, 1.0)] == [1, 2, 3, 3]
    assert int(energy_rank_of(torch.zeros(3))) == 0
    assert int(energy_rank_of(torch.ones(100), 0.99)) == 99


def share_of_rows(kind, split):
    rows = slice(split) if dist.get_rank() == 0 else slice(split, 40)
    metric = kind(6)
    metric.update(features()[rows])
    return metric.compute()


@pytest.mark.parametrize("split", [13, 40])
def test_two_ranks_are_one(split, two_ranks):
    for kind, _ in BOTH:
        for value in two_ranks(share_of_rows, kind, split):
            assert float(value) == pytest.approx(measured(kind(6), features()), abs=1e-6)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_features must be at least 1, got 0"):
        EffectiveRank(0)
    with pytest.raises(ValueError, match=r"StableRank takes features \(B, 3\), got \(2, 4\)"):
        StableRank(3).update(torch.zeros(2, 4))
