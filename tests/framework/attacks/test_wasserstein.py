"""The penalized ascent: its exact solution on quadratics, and that no row ends lower."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from framework.attacks.wasserstein import moved_cost, penalized_ascent, transport_cost

THETA = torch.tensor([0.6, -0.3, 0.5], dtype=torch.float64)


def quadratic(y: Tensor):
    return lambda z: 0.5 * (z @ THETA - y).square()


@given(st.floats(1.5, 20.0), st.integers(0, 10**6))
@settings(max_examples=6, deadline=None)
def test_the_supremum_of_a_quadratic_is_exact(ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, generator=generator, dtype=torch.float64)
    gamma = ratio * float(THETA @ THETA)
    loss = quadratic(y)
    z = penalized_ascent(loss, x, gamma, steps=100)
    value = loss(z) - gamma * moved_cost(z, x, "half_l2sq")
    exact = loss(x) * gamma / (gamma - THETA @ THETA)
    torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-12)


def test_the_square_without_a_half_is_twice_the_price():
    x, y = torch.eye(3, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    whole = penalized_ascent(quadratic(y), x, 1.5, cost="l2sq")
    half = penalized_ascent(quadratic(y), x, 3.0)
    torch.testing.assert_close(whole, half, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved_cost(whole, x, "l2sq"), 2 * moved_cost(half, x, "half_l2sq"))
    torch.testing.assert_close(moved_cost(whole, x, "l2").square(), moved_cost(whole, x, "l2sq"))


def test_a_step_of_one_over_gamma_is_the_first_order_maximizer():
    x = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    loss = quadratic(torch.zeros(1, dtype=torch.float64))
    moved = penalized_ascent(loss, x, 4.0, steps=1, step_size=1 / 4)
    torch.testing.assert_close(moved, x + (x @ THETA)[:, None] * THETA / 4, rtol=0, atol=1e-12)


@given(st.floats(1e-3, 10.0), st.floats(0.01, 50.0), st.integers(0, 8), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_row_ends_lower_than_it_began(gamma, step_size, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    label = torch.randint(4, (6,), generator=generator)

    def loss(z: Tensor) -> Tensor:
        return nn.functional.cross_entropy((z @ first).relu() @ second, label, reduction="none")

    z = penalized_ascent(loss, x, gamma, steps=steps, step_size=step_size)
    assert (loss(z) - gamma * moved_cost(z, x, "half_l2sq") >= loss(x) - 1e-12).all()


def test_a_row_has_its_own_price_and_does_not_see_the_others():
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, gamma = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 3.0, 100.0]).double()
    together = penalized_ascent(quadratic(y), x, gamma)
    for row in range(3):
        alone = penalized_ascent(quadratic(y[:1]), x[row : row + 1], float(gamma[row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)
    moved = (together - x).norm(dim=1) / (x @ THETA).abs()
    assert moved[0] > moved[1] > moved[2] > 0


def test_inputs_stay_where_there_is_nothing_to_do():
    x = torch.randn(2, 1, 3, 3)
    assert torch.equal(penalized_ascent(lambda z: z.flatten(1).sum(1), x, 1.0, steps=0), x)
    empty = penalized_ascent(lambda z: z.flatten(1).sum(1), x[:0], 1.0)
    assert empty.shape == (0, 1, 3, 3)
    nowhere = penalized_ascent(lambda z: z.flatten(1).sum(1) * torch.nan, x, 1.0)
    assert torch.equal(nowhere, x)
    weight = torch.ones(3, requires_grad=True)
    moved = penalized_ascent(lambda z: z @ weight, torch.zeros(2, 3), 2.0, steps=40)
    torch.testing.assert_close(moved, torch.full((2, 3), 0.5), rtol=0, atol=1e-3)
    assert not moved.requires_grad
    assert weight.grad is None


def test_costs_and_refusals():
    assert [float(transport_cost(torch.tensor(3.0), cost)) for cost in ("l2", "l2sq")] == [3, 9]
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="'l2' has no ascent"):
        penalized_ascent(lambda z: z.sum(1), x, 1.0, cost="l2")
    with pytest.raises(ValueError, match="cost must be one of l2, l2sq, half_l2sq"):
        penalized_ascent(lambda z: z.sum(1), x, 1.0, cost="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_size must be positive"):
        penalized_ascent(lambda z: z.sum(1), x, 1.0, step_size=0.0)
