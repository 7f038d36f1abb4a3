"""The value function at points where it is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.solvers import proximal_lagrangian_value


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def lower(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * y**2 - x * y


def at_most_one(x: Tensor, y: Tensor) -> Tensor:
    return (y - 1)[None]


def test_the_scalar_problem_of_a_bounded_quadratic():
    found = proximal_lagrangian_value(lower, at_most_one, number(3.0), number(0.0))
    assert float(found.theta) == pytest.approx(4 / 3, abs=1e-9)
    assert found.multipliers.tolist() == pytest.approx([1 / 3], abs=1e-9)
    assert float(found.value) == pytest.approx(-2.166667, abs=1e-6)
    assert float(found.grad_x) == pytest.approx(-4 / 3, abs=1e-9)
    assert float(found.grad_y) == pytest.approx(-4 / 3, abs=1e-9)
    assert found.grad_z.tolist() == pytest.approx([1 / 3], abs=1e-9)


@pytest.mark.parametrize("point", [(3.0, 0.0, 0.0), (1.0, 2.0, 0.5)])
def test_the_gradients_are_those_of_the_value(point):
    def value(x: float, y: float, z: float) -> float:
        center = number(z)[None]
        return float(
            proximal_lagrangian_value(lower, at_most_one, number(x), number(y), center).value
        )

    x, y, z = point
    found = proximal_lagrangian_value(lower, at_most_one, number(x), number(y), number(z)[None])
    h = 1e-4
    slopes = [
        (value(x + h, y, z) - value(x - h, y, z)) / (2 * h),
        (value(x, y + h, z) - value(x, y - h, z)) / (2 * h),
        (value(x, y, z + h) - value(x, y, z - h)) / (2 * h),
    ]
    gradients = [float(found.grad_x), float(found.grad_y), float(found.grad_z[0])]
    assert gradients == pytest.approx(slopes, abs=1e-5)


@pytest.mark.parametrize("gamma1", [0.5, 1.0, 4.0])
def test_without_constraints_it_is_the_moreau_envelope(gamma1):
    # of 3/2 (y - x)^2, at a distance of 4
    found = proximal_lagrangian_value(
        lambda x, y: 1.5 * (y - x) ** 2, None, number(1.0), number(5.0), gamma1=gamma1
    )
    assert float(found.value) == pytest.approx(1.5 * 16 / (1 + 3 * gamma1), abs=1e-9)
    assert len(found.multipliers) == 0


def test_f_minus_v_is_0_at_the_lower_solution_and_positive_elsewhere():
    one = number(1.0)
    solution = proximal_lagrangian_value(lower, at_most_one, number(3.0), one, 2 * one[None])
    assert float(lower(number(3.0), one) - solution.value) == pytest.approx(0, abs=1e-9)
    other = proximal_lagrangian_value(lower, at_most_one, number(3.0), 0 * one, 2 * one[None])
    assert float(lower(number(3.0), 0 * one) - other.value) > 0.1


def test_steps_that_do_not_settle_are_an_error():
    with pytest.raises(RuntimeError, match=r"not reached in 3 steps of eta=0\.1: lower eta"):
        proximal_lagrangian_value(lower, None, number(3.0), number(0.0), max_iter=3)
