"""Ranges of hyperparameters: the paper's first numbers, the inverse, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.self_tuning import HyperParameter


@pytest.mark.parametrize(
    ("init", "low", "high", "h"),
    [
        (0.05, 0.0, 0.9, -2.833213),
        (0.05, 0.0, 1.0, -2.944439),
        (0.05, 0.0, 0.3, -1.609438),
        (0.05, 0.0, 0.5, -2.197225),
        (1.0, 0.0, 4.0, -1.098612),
        (0.05, 0.0, None, -2.970629),
        (0.5, 0.0, None, -0.432752),
        (1.0, 0.0, None, 0.541325),
        # in one range, where the paper's code has 25 here and 24 there, -1.658228
        (4.0, 0.0, 24.0, -1.609438),
        (-0.05, None, 0.0, -2.970629),
        (3.0, None, None, 3.0),
    ],
)
def test_the_first_unconstrained_numbers(init, low, high, h) -> None:
    one = HyperParameter(init, low, high)
    assert one.unconstrained(init) == pytest.approx(h, abs=1e-6)
    assert float(one.constrained(torch.tensor(h))) == pytest.approx(init, abs=1e-6)


BOUNDS = st.one_of(st.none(), st.floats(-50, 50))


@given(BOUNDS, st.floats(0.1, 100), st.booleans(), st.floats(0.01, 0.99))
def test_unconstrained_is_the_inverse(low, width, bounded, share) -> None:
    high = (low or 0) + width if bounded else None
    init = (low if low is not None else (high or 0) - width) + share * width
    one = HyperParameter(init, low, high)
    h = torch.tensor(one.unconstrained(init), dtype=torch.float64)
    assert float(one.constrained(h)) == pytest.approx(init, abs=1e-9)


@given(st.floats(-500, 500), st.sampled_from([(0.0, 0.9), (2.0, None), (None, -1.0)]))
def test_every_number_has_a_finite_value_in_the_range(h, bounds) -> None:
    low, high = bounds
    init = 0.5 if low == 0 else (low + 1 if high is None else high - 1)
    one = HyperParameter(init, low, high)
    value = float(one.constrained(torch.tensor(h)))
    assert math.isfinite(value)
    assert one.range[0] - 1e-6 <= value <= one.range[1] + 1e-6


def test_a_discrete_one_is_rounded_down_and_stays_below_its_bound() -> None:
    length = HyperParameter(4, low=0, high=24, discrete=True)
    begin = length.unconstrained(4)
    h = torch.tensor([begin - 0.1, begin, begin + 0.1, -100, 100])
    assert length.constrained(h).tolist() == [3, 4, 4, 0, 23]
    # every whole number is kept through float32
    for whole in range(1, 24):
        one = HyperParameter(whole, low=0, high=24, discrete=True)
        assert float(one.constrained(torch.tensor(one.unconstrained(whole)))) == whole


def test_the_gradient_of_a_bounded_value() -> None:
    h = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(HyperParameter(0.1, 0.0, 0.9).constrained, h)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": 0.0, "low": 0.0}, "strictly between 0 and inf, got 0"),
        ({"init": 1.0, "high": 0.9}, "strictly between -inf and 0.9, got 1"),
        ({"init": 1.0, "low": 2.0, "high": 0.0}, "strictly between 2 and 0, got 1"),
        ({"init": math.nan}, "got nan"),
        ({"init": 1.0, "high": math.inf}, "high must be a finite number, got inf"),
        ({"init": 1.5, "low": 0.0, "discrete": True}, "must be whole, got 1.5"),
    ],
)
def test_what_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        HyperParameter(**arguments)


def test_an_effect_fills_in_bounds_and_refuses_others() -> None:
    default = HyperParameter(0.05, low=0.0, high=0.9)
    assert HyperParameter(0.2, shared=True).within("a", default) == HyperParameter(
        0.2, 0.0, 0.9, shared=True
    )
    assert HyperParameter(0.2, high=0.5).within("a", default, 0, 1).range == (0.0, 0.5)
    assert HyperParameter(0.2, high=1.0).within("a", default, 0, 1).range == (0.0, 1.0)
    with pytest.raises(ValueError, match="a must stay between 0 and 1, but its range is 0 to 2"):
        HyperParameter(0.2, high=2.0).within("a", default, 0, 1)
    with pytest.raises(ValueError, match=r"a: .* strictly between 0 and 0.9, got 0.95"):
        HyperParameter(0.95).within("a", default)
