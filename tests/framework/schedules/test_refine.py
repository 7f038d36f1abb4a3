"""The schedule that gradient norms are refined to."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.schedules import refine_schedule

NORMS = [9.0, 5.0, 4.0, 3.0, 30.0, 3.0, 2.5, 2.4, 2.3, 2.6]
SERIES = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=40)


@pytest.mark.parametrize(
    ("norms", "kind", "smoothing", "expected"),
    [
        ([1.0] * 5, "sgd", 0.1, [1, 0.75, 0.5, 0.25, 0]),
        ([4.0, 2, 1, 1, 2], "sgd", 0.1, [0.125, 0.45, 1, 0.2, 0]),
        ([4.0, 2, 1, 1, 2], "adam", 0.1, [0.5, 0.833333, 1, 0.333333, 0]),
        # width 3, and the right end reflected: (9, 5, 4, 4, 3, 3, 2.5, 2.4, 2.4, 2.3)
        (
            NORMS,
            "sgd",
            0.3,
            [0.149110, 0.465280, 0.683456, 0.639912, 1, 0.862379, 0.956454, 0.701830, 0.365841, 0],
        ),
    ],
)
def test_worked_numbers(
    norms: list[float], kind: Any, smoothing: float, expected: list[float]
) -> None:
    schedule = refine_schedule(norms, len(norms), kind, smoothing)
    assert schedule.dtype == torch.float64
    assert schedule.tolist() == pytest.approx(expected, abs=1e-6)
    assert schedule[-1] == 0
    assert schedule.max() == 1


def test_before_normalization_it_is_the_weight_times_the_share_of_later_weights() -> None:
    weights = torch.tensor([1 / 16, 1 / 4, 1.0, 1.0, 1 / 4])
    raw = weights * (weights.sum() - weights.cumsum(0)) / weights.sum()
    assert raw.tolist() == pytest.approx([0.060976, 0.219512, 0.487805, 0.097561, 0], abs=1e-6)
    refined = refine_schedule(torch.tensor([4.0, 2, 1, 1, 2]), 5)
    assert refined.tolist() == pytest.approx((raw / raw.max()).tolist(), abs=1e-6)


@settings(max_examples=20)
@given(SERIES, st.floats(1e-6, 1e6), st.sampled_from(["sgd", "adam", 1.5]))
def test_the_scale_of_the_norms_does_not_matter(
    norms: list[float], scale: float, kind: Any
) -> None:
    with warnings.catch_warnings(action="ignore"):
        one = refine_schedule(norms, len(norms), kind)
        other = refine_schedule([scale * norm for norm in norms], len(norms), kind)
    assert other.tolist() == pytest.approx(one.tolist(), rel=1e-9, abs=1e-12)


@settings(max_examples=20)
@given(st.floats(1e-9, 1e9), st.integers(2, 60), st.integers(1, 60), st.floats(0, 1))
def test_equal_norms_are_the_linear_decay(
    norm: float, steps: int, known: int, smoothing: float
) -> None:
    schedule = refine_schedule([norm] * known, steps, "sgd", smoothing)
    linear = [1 - step / (steps - 1) for step in range(steps)]
    assert schedule.tolist() == pytest.approx(linear, abs=1e-9)


@settings(max_examples=20)
@given(SERIES, st.integers(2, 50))
def test_it_lies_between_0_and_1_and_ends_in_0(norms: list[float], steps: int) -> None:
    with warnings.catch_warnings(action="ignore"):
        schedule = refine_schedule(norms, steps, "adam", 0.2)
    assert schedule.shape == (steps,)
    assert schedule.max() == 1
    assert (schedule[:-1] > 0).all()
    assert schedule[-1] == 0


@pytest.mark.parametrize("outlier", [1e-9, 1e9])
def test_an_outlier_has_no_effect(outlier: float) -> None:
    norms = torch.linspace(2, 1, 50)
    with_outlier = norms.clone()
    with_outlier[20] = outlier
    smooth = refine_schedule(norms, 50, smoothing=0.1)
    # the median of five values moves to the neighbor of the one that is gone
    assert refine_schedule(with_outlier, 50, smoothing=0.1).tolist() == pytest.approx(
        smooth.tolist(), abs=0.05
    )
    steady = torch.full((50,), 2.0)
    with_outlier = steady.clone()
    with_outlier[20] = outlier
    assert torch.equal(refine_schedule(with_outlier, 50), refine_schedule(steady, 50))


def test_what_is_not_finite_is_interpolated() -> None:
    broken = [float("nan"), 2.0, float("inf"), 1.0, 2.0]
    whole = refine_schedule([2.0, 2.0, 1.5, 1.0, 2.0], 5)
    assert torch.equal(refine_schedule(broken, 5), whole)


def test_a_series_of_another_length_is_stretched() -> None:
    longer = refine_schedule([4.0, 2.0, 1.0], 5, smoothing=0)
    assert torch.equal(longer, refine_schedule([4.0, 3.0, 2.0, 1.5, 1.0], 5, smoothing=0))
    assert refine_schedule([3.0, 1.0], 1).tolist() == [0]


def test_the_width_is_a_share_of_this_run() -> None:
    # 0.58 * 100 is 57.99999999999999, of which the floor would give a width of 57 and not 59
    norms = torch.ones(100)
    linear = refine_schedule([1.0], 100)
    norms[30:59] = 3.0  # 29 of 59 values
    assert torch.equal(refine_schedule(norms, 100, smoothing=0.58), linear)
    norms[30:60] = 3.0
    assert not torch.equal(refine_schedule(norms, 100, smoothing=0.58), linear)


def test_small_norms_at_the_start_are_told_and_can_be_left_out() -> None:
    norms = torch.cat([torch.full((20,), 0.2), torch.ones(80), torch.full((100,), 0.5)])
    with pytest.warns(
        UserWarning, match="largest in its first step and falls to 0.02 by step 20 of 200"
    ):
        refine_schedule(norms, 200, smoothing=0)
    schedule = refine_schedule(norms, 200, smoothing=0, ignore_first=0.1)
    assert schedule.argmax() == 100
    norms[:20] = 1.0
    assert torch.equal(schedule, refine_schedule(norms, 200, smoothing=0))


def test_a_floor_keeps_late_norms_from_taking_the_whole_schedule() -> None:
    norms = torch.cat([torch.ones(90), torch.full((10,), 1e-6)])
    assert refine_schedule(norms, 100, smoothing=0)[:90].max() < 1e-9
    floored = refine_schedule(norms, 100, smoothing=0, floor=0.5)
    norms[90:] = 0.5
    assert torch.equal(floored, refine_schedule(norms, 100, smoothing=0))


@pytest.mark.parametrize(
    ("norms", "options", "message"),
    [
        ([0.0, 0.0, 1.0], {"smoothing": 0}, "gradient norm is 0 in step 0 of 5.*set floor"),
        ([1e300, 1e-300, 1e300], {"smoothing": 0}, "too large for a number: set floor"),
        ([-1.0, 1.0], {}, "norms must be at least 0, got -1"),
        ([float("nan")], {}, "no finite value"),
        ([[1.0]], {}, "one value per step"),
        ([1.0], {"total_steps": 0}, "total_steps must be at least 1"),
        ([1.0], {"kind": "lion"}, "kind must be one of sgd, adam, got 'lion'"),
        ([1.0], {"kind": 0.0}, "kind must be positive, got 0.0"),
        ([1.0], {"smoothing": 1.1}, r"smoothing must lie in \[0, 1\]"),
        ([1.0], {"ignore_first": 1.0}, r"ignore_first must lie in \[0, 1\)"),
        ([1.0], {"floor": -0.1}, "floor must be at least 0"),
    ],
)
def test_what_cannot_be_refined_is_named(norms: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refine_schedule(norms, **{"total_steps": 5, **options})
