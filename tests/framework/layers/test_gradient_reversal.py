"""The reversed gradient, once and twice, and its coefficient in the course of a run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.layers import ReversalSchedule, reverse_gradient


@pytest.mark.parametrize("coefficient", [0.0, 0.3, 1.0, -2.0])
def test_only_the_gradient_changes(coefficient: float) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    y = reverse_gradient(x, coefficient)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.pow(3).sum(), x)
    torch.testing.assert_close(gradient, -coefficient * 3 * x.detach() ** 2)


def test_the_second_derivative_is_reversed_once_too() -> None:
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(reverse_gradient(x, 0.5).pow(3).sum(), x, create_graph=True)
    # first = -0.5 * 3 y^2 with y = reverse(x), whose derivative for x is -0.5 again
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 0.25 * 6 * x.detach())


def test_what_lies_behind_it_is_trained_as_usual() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    reverse_gradient(x, 0.5).dot(weight).backward()
    assert weight.grad.tolist() == [1.0, 2.0]
    assert x.grad.tolist() == [-1.5, -2.0]


def test_no_rows() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    reverse_gradient(x).sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("coefficient", [math.inf, math.nan])
def test_a_coefficient_that_is_no_number_is_refused(coefficient: float) -> None:
    with pytest.raises(ValueError, match="coefficient must lie in"):
        reverse_gradient(torch.zeros(1), coefficient)


def published(step: int, low: float, high: float, alpha: float, steps: int) -> float:
    return 2 * (high - low) / (1 + math.exp(-alpha * step / steps)) - (high - low) + low


@given(
    st.integers(0, 10**5),
    st.floats(0, 1),
    st.floats(0, 5),
    st.floats(0.1, 10),
    st.integers(100, 999),
)
def test_the_schedule_is_the_published_one(step, low, rise, alpha, steps) -> None:
    schedule = ReversalSchedule(low, low + rise, alpha, steps)
    expected = published(step, low, low + rise, alpha, steps)
    assert schedule(step) == pytest.approx(expected, abs=1e-12)


def test_the_schedule_in_numbers() -> None:
    schedule = ReversalSchedule()
    values = [round(schedule(step), 6) for step in (0, 1, 500, 1000, 5000)]
    assert values == [0.0, 0.0005, 0.244919, 0.462117, 0.986614]
    assert ReversalSchedule(low=0.2, high=0.2)(77) == 0.2
    # no overflow at the end of a long run
    assert ReversalSchedule(high=0.1, alpha=10.0)(10**9) == 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"low": -0.1}, "0 <= low <= high"),
        ({"low": 0.5, "high": 0.4}, "low=0.5 and high=0.4"),
        ({"high": math.inf}, "0 <= low <= high"),
        ({"high": math.nan}, "0 <= low <= high"),
        ({"alpha": 0.0}, "alpha must be"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
    ],
)
def test_a_schedule_out_of_range_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ReversalSchedule(**arguments)
