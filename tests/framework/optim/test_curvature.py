"""Curvatures: Hessians and Gauss-Newton products against closed forms, and their solutions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from framework.optim import TargetClosure, exact_hessian, gauss_newton_product
from framework.optim.curvature import LARGEST_EXACT, MatrixCurvature, ZeroCurvature
from framework.optim.gauss_newton import ProductCurvature, conjugate_gradients


class Network(nn.Module):
    """Two layers in float64, whose Hessian has indefinite second derivatives of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


def problem_of(model: nn.Module, rows: int = 5) -> TargetClosure:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = torch.arange(rows) % 2
    return TargetClosure(model.parameters(), lambda: model(x), lambda z: F.cross_entropy(z, y))


def dense(product, size: int) -> Tensor:
    return torch.stack([product(unit) for unit in torch.eye(size, dtype=torch.float64)])


def test_the_exact_hessian_is_that_of_autograd():
    model = Network()
    problem, params = problem_of(model), [*model.parameters()]
    sizes = [p.numel() for p in params]

    def loss_at(flat: Tensor) -> Tensor:
        names = [name for name, _ in model.named_parameters()]
        parts = [v.view(p.shape) for v, p in zip(flat.split(sizes), params, strict=True)]
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        z = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (x,))
        return F.cross_entropy(z, torch.arange(5) % 2)

    flat = torch.cat([p.detach().flatten() for p in params])
    expected = torch.autograd.functional.hessian(loss_at, flat)
    torch.testing.assert_close(exact_hessian(problem, params), expected, rtol=1e-10, atol=1e-12)


class Cubic(torch.autograd.Function):
    """x^3 by operations that take no batch of gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return Slope.apply(x) * g


class Slope(torch.autograd.Function):
    """3 x^2, whose backward looks at numbers."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return 3 * x**2

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        assert g.sum().item() < 1e9
        return 6 * x * g


def test_operations_without_a_rule_for_batches():
    x = nn.Parameter(torch.tensor([1.0, -2.0]).double())
    problem = TargetClosure([x], lambda: x, lambda z: Cubic.apply(z).sum())
    expected = torch.diag(torch.tensor([6.0, -12.0]).double())
    torch.testing.assert_close(exact_hessian(problem, [x]), expected)


def test_a_linear_loss_has_no_curvature():
    x, idle = (nn.Parameter(torch.ones(2).double()) for _ in range(2))
    problem = TargetClosure([x], lambda: x, lambda z: 3 * z.sum())
    assert not exact_hessian(problem, [x, idle]).any()
    assert not dense(gauss_newton_product(problem, [x, idle]), 4).any()


def test_too_many_entries_for_the_exact_hessian():
    x = nn.Parameter(torch.zeros(LARGEST_EXACT + 1))
    problem = TargetClosure([x], lambda: x, lambda z: z.square().sum())
    with pytest.raises(ValueError, match="at most 2000 entries, and the parameters have 2001"):
        exact_hessian(problem, [x])


def test_the_gauss_newton_matrix_is_its_definition():
    model = Network()
    problem, params = problem_of(model), [*model.parameters()]
    found = dense(gauss_newton_product(problem, params), sum(p.numel() for p in params))
    z = problem.outputs()[0]
    rows = []
    for value in z.flatten():
        parts = torch.autograd.grad(value, params, retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in parts]))
    jacobian = torch.stack(rows)
    bend = torch.autograd.functional.hessian(
        lambda v: F.cross_entropy(v.view(z.shape), torch.arange(5) % 2), z.detach().flatten()
    )
    torch.testing.assert_close(found, jacobian.T @ bend @ jacobian, rtol=1e-10, atol=1e-12)
    assert torch.linalg.eigvalsh(found).min() > -1e-12


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    model = nn.Linear(3, 2).double()
    problem, params = problem_of(model), [*model.parameters()]
    product = gauss_newton_product(problem, params)
    torch.testing.assert_close(dense(product, 8), exact_hessian(problem, params))


def test_gauss_newton_of_several_outputs():
    a, b = (nn.Parameter(torch.tensor([v]).double()) for v in (2.0, 3.0))
    problem = TargetClosure([a, b], lambda: (a * b, 1 * b), lambda z: (z[0] ** 2 + z[1] ** 4).sum())
    expected = torch.tensor([[18.0, 12.0], [12.0, 8.0 + 108.0]]).double()
    torch.testing.assert_close(dense(gauss_newton_product(problem, [a, b]), 2), expected)


# ---- solutions -----------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 100), st.sampled_from([1e-3, 1.0, 1e3]))
def test_all_solve_the_same_system(size, seed, shift):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix = root @ root.T
    g = torch.randn(size, generator=generator, dtype=torch.float64)
    exact = MatrixCurvature(matrix).solve(g, shift)
    by_products = ProductCurvature(lambda: lambda v: matrix @ v, 1e-12, 500).solve(g, shift)
    residual = matrix @ exact + shift * exact - g
    assert residual.norm() <= 1e-8 * g.norm()
    residual = matrix @ by_products + shift * by_products - g
    assert residual.norm() <= 1e-8 * g.norm()


def test_a_matrix_that_is_not_positive_has_no_solution():
    g = torch.ones(2)
    for matrix in (torch.diag(torch.tensor([1.0, -1.0])), torch.full((2, 2), torch.nan)):
        assert MatrixCurvature(matrix).solve(g, 0.5) is None
        assert ProductCurvature(lambda m=matrix: lambda v: m @ v, 1e-6, 9).solve(g, 0.5) is None
    assert ZeroCurvature().solve(g, 0.0) is None
    solved = MatrixCurvature(torch.diag(torch.tensor([1.0, -1.0]))).solve(g, 2.0)
    torch.testing.assert_close(solved, torch.tensor([1 / 3, 1.0]))


def test_conjugate_gradients_stop_at_the_tolerance():
    values, calls = torch.linspace(1, 100, 50, dtype=torch.float64), []

    def product(v: Tensor) -> Tensor:
        calls.append(1)
        return values * v

    right = torch.ones(50, dtype=torch.float64)
    for tolerance in (1e-2, 1e-8):
        calls.clear()
        solution = conjugate_gradients(product, right, tolerance, 500)
        assert (values * solution - right).norm() <= 1.01 * tolerance * right.norm()
        few = len(calls)
        conjugate_gradients(product, right, tolerance, few - 1)
        assert len(calls) == 2 * few - 1
    assert not conjugate_gradients(product, torch.zeros(50).double(), 1e-6, 9).any()
