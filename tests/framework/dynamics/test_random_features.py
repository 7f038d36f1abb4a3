"""Facts of least squares on random features: condition, contraction, limits and the peak."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.dynamics.random_features import (
    condition_number,
    contraction,
    curvature,
    descended,
    draw_first_layer,
    exact_solution,
    peak_height,
    random_features,
)


def problem(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return features, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def gradient_steps(z: Tensor, y: Tensor, w: Tensor, step: float, steps: int) -> Tensor:
    for _ in range(steps):
        w = w - step * z.T @ (z @ w - y) / len(z)
    return w


def test_condition_number_and_curvature_of_a_diagonal() -> None:
    z = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    assert float(condition_number(z)) == pytest.approx(4, rel=1e-12)
    assert float(curvature(z)) == pytest.approx(16 / 3, rel=1e-12)
    # two directions of five
    low = problem(6, 2)[0] @ problem(2, 5)[0]
    assert float(condition_number(low)) > 1e14


@pytest.mark.parametrize("steps", [0, 1, 7, 100])
def test_the_error_in_each_direction_contracts_as_the_formula_says(steps: int) -> None:
    z, y = problem(12, 5)
    solution = exact_solution(z, y)
    right = torch.linalg.svd(z, full_matrices=False).Vh
    moved = gradient_steps(z, y, torch.zeros(5, 3).double(), 1 / float(curvature(z)), steps)
    expected = contraction(z, steps)[:, None] * (right @ -solution)
    torch.testing.assert_close(right @ (moved - solution), expected, rtol=1e-9, atol=1e-13)


def test_the_largest_direction_is_gone_after_one_step() -> None:
    remaining = contraction(torch.diag(torch.tensor([4.0, 2.0, 1.0])), 1)
    torch.testing.assert_close(remaining, torch.tensor([0.0, 0.75, 0.9375]).double())


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("step", [None, 0.05])
def test_the_closed_form_of_descent_is_descent(shape: tuple[int, int], step: float | None) -> None:
    z, y = problem(*shape)
    start = torch.ones(shape[1], 3).double()
    size = 1 / float(curvature(z)) if step is None else step
    for begin in (torch.zeros_like(start), start):
        expected = gradient_steps(z, y, begin, size, 50)
        torch.testing.assert_close(descended(z, y, 50, step, begin), expected)
    torch.testing.assert_close(descended(z, y, 9, step), gradient_steps(z, y, 0 * start, size, 9))


def test_the_shortest_solution_is_the_limit_of_descent_from_zero() -> None:
    z, y = problem(4, 9)
    limit = gradient_steps(z, y, torch.zeros(9, 3).double(), 1 / float(curvature(z)), 3000)
    torch.testing.assert_close(limit, exact_solution(z, y), rtol=1e-8, atol=1e-10)
    # from elsewhere descent keeps what no row sees
    elsewhere = gradient_steps(z, y, torch.ones(9, 3).double(), 1 / float(curvature(z)), 3000)
    assert (elsewhere.norm() - exact_solution(z, y).norm()) > 0.1
    torch.testing.assert_close(z @ elsewhere, y, rtol=1e-8, atol=1e-10)


def test_a_ridge_solves_the_normal_equations() -> None:
    z, y = problem(7, 4)
    solution = exact_solution(z, y, ridge=0.3)
    normal = z.T @ z + 0.3 * torch.eye(4).double()
    torch.testing.assert_close(normal @ solution, z.T @ y)
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        exact_solution(z, y, ridge=-1)


def test_features_have_the_variance_of_the_inputs() -> None:
    first = draw_first_layer(400, 300, torch.Generator().manual_seed(0))
    assert first.dtype == torch.float64
    assert float(first.square().mean()) * 400 == pytest.approx(1, abs=0.02)
    x = torch.randn(3, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(random_features(x, first), torch.tanh(2 * x @ first))
    torch.testing.assert_close(random_features(x, first, "relu", 1.0), (x @ first).clamp(min=0))
    with pytest.raises(ValueError, match="activation must be one of tanh, relu"):
        random_features(x, first, "cos")  # type: ignore[arg-type]


def test_the_peak_is_sought_near_as_many_features_as_rows() -> None:
    widths, errors = [70, 80, 125, 130, 590, 2000], torch.tensor([9.0, 3.0, 4.0, 9.0, 2.0, 1.0])
    assert float(peak_height(widths, errors, rows=100)) == 2.0  # type: ignore[arg-type]
    assert peak_height([10, 600], torch.ones(2), rows=100) is None
    assert peak_height([90, 100], torch.ones(2), rows=100) is None
