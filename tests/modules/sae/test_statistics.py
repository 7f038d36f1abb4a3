"""Clocks of dead features, running densities and running thresholds."""

import math

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import gather, rank
from framework.sparse_coding.sparse_code import SparseCode, SparsePattern
from modules.sae.statistics import FiringStatistics, Thresholds, smallest_values


def test_the_clock_counts_tokens_however_the_batch_is_cut() -> None:
    whole, cut = FiringStatistics(3), FiringStatistics(3)
    for _ in range(3):
        whole.update(torch.tensor([5, 0, 0]), 8)
        cut.update(torch.tensor([2, 0, 0]), 4)
        cut.update(torch.tensor([3, 0, 0]), 4)
    whole.update(torch.tensor([0, 1, 0]), 8)
    cut.update(torch.tensor([0, 1, 0]), 8)
    assert whole.tokens_since_fired.tolist() == cut.tokens_since_fired.tolist() == [8, 0, 32]
    assert whole.dead(8).tolist() == [True, False, True]
    assert whole.dead(9).tolist() == [False, False, True]
    assert int(whole.tokens) == 32


def test_the_density_forgets_with_its_horizon() -> None:
    counted = FiringStatistics(1, horizon=1e12)
    for fired in (3, 1, 0, 4):
        counted.update(torch.tensor([fired]), 10)
    assert float(counted.density()) == pytest.approx(8 / 40)
    counted = FiringStatistics(1, horizon=10)
    assert float(counted.density()) == 0
    counted.update(torch.tensor([10]), 10)
    assert float(counted.density()) == 1
    counted.update(torch.tensor([0]), 10)
    assert float(counted.density()) == pytest.approx(math.exp(-1) / (math.exp(-1) + 1))


def smallest(values: Tensor | list[float], features: list[int], per_feature: bool) -> Tensor:
    index = torch.tensor(features, dtype=torch.int64)
    pattern = SparsePattern(torch.zeros_like(index), index, (1, 3))
    return smallest_values(SparseCode(torch.as_tensor(values), pattern), per_feature)


def test_thresholds_follow_the_smallest_kept_values() -> None:
    one, each = Thresholds(3), Thresholds(3)
    assert one.values().tolist() == [0, 0, 0]
    for values in ([0.5, 2.0, 0.25], [1.0, 3.0, 0.75]):
        one.update(smallest(values, [0, 0, 2], False))
        each.update(smallest(values, [0, 0, 2], True))
    # the second of them counts 9 / 12
    assert one.values().tolist() == pytest.approx([0.25 + 0.75 * 0.5] * 3)
    assert each.values().tolist() == pytest.approx([0.5 + 0.75 * 0.5, math.inf, 0.625])
    assert (one.values() < one.mean).all()


def test_a_feature_without_a_value_keeps_its_threshold() -> None:
    thresholds = Thresholds(3)
    thresholds.update(smallest([0.5, 2.0], [0, 2], True))
    thresholds.update(smallest([1.0], [2], True))
    assert thresholds.mean.tolist() == pytest.approx([0.5, 0.0, 2.0 - 0.75])
    thresholds.update(smallest([], [], True))
    assert thresholds.updates.tolist() == [1, 0, 2]
    assert thresholds.values().tolist() == pytest.approx([0.5, math.inf, 1.25])


@pytest.mark.parametrize(("updates", "rate"), [(79, 9 / 90), (889, 9 / 900), (50_000, 1e-3)])
def test_the_horizon_of_a_threshold_grows_with_the_run(updates: int, rate: float) -> None:
    thresholds = Thresholds(3)
    thresholds.updates.fill_(updates)
    thresholds.mean.fill_(1.0)
    thresholds.update(smallest([2.0], [0], False))
    assert thresholds.mean.tolist() == pytest.approx([1 + rate] * 3, rel=1e-6)


def test_calibrated_thresholds_hold_until_training_goes_on() -> None:
    thresholds = Thresholds(3)
    thresholds.update(smallest([0.5], [1], False))
    thresholds.calibrate(torch.tensor([0.0, 1.0, math.inf]))
    assert thresholds.values().tolist() == [0, 1, math.inf]
    thresholds.update(smallest([0.5], [1], False))
    assert thresholds.values().tolist() == pytest.approx([0.5] * 3)
    thresholds.reset()
    assert thresholds.values().tolist() == [0, 0, 0]


def updated(values: Tensor, features: list[int], cut: int) -> list[Tensor]:
    own = slice(0, cut) if rank() == 0 else slice(cut, None)
    results = []
    for per_feature in (False, True):
        thresholds = Thresholds(3)
        found = smallest(values[own], features[own], per_feature)
        thresholds.update(gather(found[None]).amin(0))
        results.append(thresholds.values())
    return results


@pytest.mark.parametrize("cut", [0, 2, 4])
def test_two_ranks_see_the_smallest_of_both(cut: int, two_ranks) -> None:
    values, features = torch.tensor([0.5, 2.0, 0.25, 0.75]), [0, 0, 2, 2]
    expected = updated(values, features, 4)
    for results in two_ranks(updated, values, features, cut):
        for one, other in zip(results, expected, strict=True):
            assert torch.equal(one, other)
