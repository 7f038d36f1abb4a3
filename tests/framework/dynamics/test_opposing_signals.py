"""The samples that a step moves most, and the planted pair that they must find."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.opposing_planted import Planted, descend, mnist_digits, plant
from framework.dynamics import (
    SignalTracker,
    cosine_of,
    opposing_groups,
    signal_cosine,
    swapped_share,
)
from tests.helpers.data import shared_data

CHANGE = [0.02, -0.9, 1.3, -0.05, 0.7, -1.1]


def _groups(before: list[float], after: list[float], k: int) -> list[list[int]]:
    found = opposing_groups(torch.tensor(before), torch.tensor(after), k)
    return [group.tolist() for group in found]


def test_the_groups_are_the_worked_example() -> None:
    assert _groups([0.0] * 6, CHANGE, 2) == [[2, 4], [5, 1]]


def test_equal_changes_go_by_place_and_no_sample_is_in_both_groups() -> None:
    assert _groups([1.0] * 6, [1.0] * 6, 2) == [[0, 1], [2, 3]]
    assert _groups([0.0] * 5, [1.0, 1.0, 0.0, -1.0, -1.0], 1) == [[0], [3]]
    assert _groups([0.0] * 5, CHANGE[:5], 20) == [[2, 4], [1, 3]]


def test_a_change_that_is_no_number_counts_as_none() -> None:
    after = [math.nan, -1.0, 1.0, math.inf]
    assert _groups([math.nan, 0.0, 0.0, 0.0], after, 1) == [[3], [1]]
    assert _groups([math.inf, 0.0, 0.0, 0.0], [math.inf, -1.0, 1.0, 0.5], 2) == [[2, 3], [1, 0]]


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=20), st.integers(1, 8))
def test_the_opposite_change_swaps_the_ends(change: list[int], k: int) -> None:
    delta = torch.tensor(change, dtype=torch.float64)
    zero = torch.zeros_like(delta)
    up, down = opposing_groups(zero, delta, k)
    assert len(up) == len(down) == min(k, len(change) // 2)
    assert not set(up.tolist()) & set(down.tolist())
    assert delta[up].min() >= delta[down].max()
    other, _ = opposing_groups(zero, -delta, k)
    assert delta[other].tolist() == delta.sort().values[: len(up)].tolist()


@pytest.mark.parametrize(
    ("before", "after", "k", "said"),
    [
        (torch.zeros(1), torch.zeros(1), 1, "at least two samples, got \\(1,\\) and \\(1,\\)"),
        (torch.zeros(3), torch.zeros(4), 1, "got \\(3,\\) and \\(4,\\)"),
        (torch.zeros(3), torch.zeros(3), 0, "k must be at least 1"),
    ],
)
def test_what_is_no_pair_of_losses_is_refused(
    before: Tensor, after: Tensor, k: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        opposing_groups(before, after, k)


def test_the_overlap_is_the_share_that_swapped() -> None:
    up, down = torch.tensor([2, 4]), torch.tensor([5, 1])
    assert swapped_share((up, down), (down, up)) == 1.0
    assert swapped_share((up, down), (up, down)) == 0.0
    assert swapped_share((up, down), (torch.tensor([5, 0]), torch.tensor([3, 6]))) == 0.25


def test_the_cosine_of_a_pair_that_shares_a_feature() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    x, y = torch.tensor([3.0, 4.0]), torch.tensor([-3.0, 4.0])
    # 7 / 25 between the two gradients
    assert signal_cosine(x @ w, (y @ w).expand(1), [w]) == pytest.approx(7 / 25)
    assert signal_cosine(x @ w, -2 * (x @ w), [w]) == pytest.approx(-1)
    assert math.isnan(cosine_of([torch.zeros(2)], [x]))


def test_a_step_is_described_by_its_groups() -> None:
    tracker = SignalTracker(k=1)
    assert tracker.update(torch.tensor([1.0, 2.0, 4.0, 1.0]), step=7) is None
    found = tracker.update(torch.tensor([2.0, 2.0, 1.0, 1.0]), step=8)
    assert found is not None
    assert math.isnan(found.overlap)
    assert (found.step, found.up.tolist(), found.down.tolist()) == (8, [0], [2])
    values = dict(found.values)
    del values["overlap"]
    assert values == {
        "loss": 1.5,
        "change": -0.5,
        "loss_up": 2.0,
        "loss_down": 1.0,
        "relative_up": 1.0,
        "relative_down": -0.75,
        "share": 1.0,
    }
    swapped = tracker.update(torch.tensor([1.0, 2.0, 4.0, 1.5]), step=9)
    assert swapped is not None
    assert (swapped.overlap, tracker.spikes) == (1.0, 1)
    # 1 and 3 of the changes 1, 0, 3 and 0.5
    assert swapped.share == pytest.approx(4 / 4.5)


def test_a_gap_begins_a_new_row() -> None:
    tracker = SignalTracker(k=1)
    losses = torch.eye(4)
    tracker.update(losses[0])
    tracker.update(losses[1])
    tracker.interrupt()
    assert tracker.update(losses[2]) is None
    found = tracker.update(losses[3])
    assert found is not None
    assert math.isnan(found.overlap)
    assert list(tracker.steps) == [0, 1, 2, 3]


@pytest.mark.parametrize("seen", [0, 1, 2, 5])
def test_a_restored_tracker_goes_on_with_the_same_numbers(seen: int) -> None:
    losses = torch.rand(8, 12, generator=torch.Generator().manual_seed(0))
    whole, first, second = (SignalTracker(k=3, keep=4) for _ in range(3))
    for row in losses[:seen]:
        whole.update(row)
        first.update(row)
    second.load_state_dict(first.state_dict())
    for row in losses[seen:]:
        a, b = whole.update(row), second.update(row)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert str(a) == str(b)
    assert whole.spikes == second.spikes
    assert torch.equal(torch.stack([*whole.losses]), torch.stack([*second.losses]))


def _late(found: Planted, steps: int) -> tuple[float, float, float]:
    """Return the means of the precision of both groups and of the overlap, at the end."""
    return mean(found.up[-steps:]), mean(found.down[-steps:]), mean(found.overlap[-steps:])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_pair_is_found_at_the_edge_of_stability(seed: int) -> None:
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(images), generator=generator)[:400]
    planted = plant(images[rows], labels[rows], 40, 16, generator, bright=2.0)
    found = descend(*planted, seed, steps=110, k=10, width=32)
    up, down, overlap = _late(found, 15)
    # a tenth of the samples are planted
    assert min(up, down) > 0.8
    assert overlap > 0.83
    assert mean(found.overlap[1:40]) < 0.3


@pytest.mark.slow
def test_a_planted_pair_of_mnist_is_found() -> None:
    folder = shared_data("mnist", "MNIST", "raw")
    found = descend(*mnist_digits(folder, seed=0), seed=0)
    up, down, overlap = _late(found, 50)
    assert min(up, down) > 0.8
    assert 0.83 < overlap <= 1.0
