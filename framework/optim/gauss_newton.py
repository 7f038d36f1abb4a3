"""The generalized Gauss-Newton matrix of a step, known by its products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.optim.curvature import Curvature, flat
from framework.optim.target_closure import StepProblem


def gauss_newton_product(
    problem: StepProblem, params: Sequence[Tensor]
) -> Callable[[Tensor], Tensor]:
    """Return the product of the Gauss-Newton matrix with a vector, at the present parameters.

    The matrix is J^T H_L J: J the Jacobian of the network's outputs, H_L the Hessian of the loss in
    them. It is positive semidefinite where the loss is convex in the outputs, and leaves out the
    second derivatives of the network. No output may be computed from another one. The product is
    the mean over ranks.

    Args:
        problem: Loss and outputs of the step.
        params: Parameters, whose entries one after the other are those of the vectors (d,).

    Example:
        >>> from framework.optim import TargetClosure
        >>> x, w = torch.tensor([[1.0, 2.0]]), torch.nn.Parameter(torch.zeros(2))
        >>> closure = TargetClosure([w], lambda: x @ w, lambda z: z.square().sum())
        >>> gauss_newton_product(closure, [w])(torch.tensor([1.0, 0.0]))
        tensor([2., 4.])
    """
    with torch.enable_grad():
        loss, outputs = problem.evaluate()
        slopes = _graded(loss, outputs)
        # the transposed Jacobian is linear in these, so that its derivative in them is J itself
        seeds = [torch.zeros_like(z, requires_grad=True) for z in outputs]
        pulled = torch.autograd.grad(
            outputs, params, seeds, create_graph=True, retain_graph=True, allow_unused=True
        )

    def product(vector: Tensor) -> Tensor:
        pieces = vector.split([p.numel() for p in params])
        used = [
            (g, v.view(g.shape).to(g.dtype))
            for g, v in zip(pulled, pieces, strict=True)
            if g is not None and g.requires_grad
        ]
        pushed = _backward([g for g, _ in used], seeds, [v for _, v in used])
        bent = _backward(slopes, outputs, pushed)
        return average_over_ranks([flat(_backward(outputs, params, bent), vector.dtype)])[0]

    return product


def _graded(loss: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of the loss in the outputs, to be differentiated again."""
    found = torch.autograd.grad(
        loss, outputs, create_graph=True, retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(z) if g is None else g for z, g in zip(outputs, found, strict=True)]


def _backward(
    values: Sequence[Tensor], places: Sequence[Tensor], seeds: Sequence[Tensor]
) -> list[Tensor]:
    """Return the vector-Jacobian products of values, zero where they do not depend on a place."""
    pairs = [(x, s) for x, s in zip(values, seeds, strict=True) if x.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in places]
    found = torch.autograd.grad(
        [x for x, _ in pairs],
        places,
        [s for _, s in pairs],
        retain_graph=True,
        allow_unused=True,
    )
    return [torch.zeros_like(x) if g is None else g for x, g in zip(places, found, strict=True)]


class ProductCurvature(Curvature):
    """A matrix H that is known by its products, solved by conjugate gradients.

    Args:
        product: Function that returns a fresh product with H at the point where a solution is
            sought.
        tolerance: Norm of the residual, relative to the right-hand side, at which a solution is
            taken.
        iterations: Most products of a solution, which is then taken as it is.
    """

    def __init__(
        self, product: Callable[[], Callable[[Tensor], Tensor]], tolerance: float, iterations: int
    ) -> None:
        self.product = product
        self.tolerance = tolerance
        self.iterations = iterations

    def solve(self, gradient: Tensor, shift: float) -> Tensor | None:
        """Return the solution, or None where a direction of no positive curvature is met."""
        # made anew for every shift: a trial step has since written over the parameters in its graph
        product = self.product()
        return conjugate_gradients(
            lambda v: product(v) + shift * v, gradient, self.tolerance, self.iterations
        )


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, tolerance: float, iterations: int
) -> Tensor | None:
    """Return the solution x of ``A x = right``, or None where A proves not to be positive.

    Args:
        product: Function that returns ``A v``.
        right: Right-hand side, shape (d,).
        tolerance: Norm of the residual, relative to the right-hand side, at which to stop.
        iterations: Most products.

    Example:
        >>> conjugate_gradients(lambda v: 2 * v, torch.tensor([2.0, 4.0]), 1e-6, 10)
        tensor([1., 2.])
    """
    solution = torch.zeros_like(right)
    residual = direction = right
    square = residual.dot(residual).item()
    goal = tolerance**2 * square
    for _ in range(iterations):
        if square <= goal:
            break
        image = product(direction)
        bend = direction.dot(image).item()
        if not bend > 0:
            return None
        step = square / bend
        solution = solution + step * direction
        residual = residual - step * image
        before, square = square, residual.dot(residual).item()
        direction = residual + square / before * direction
    return solution
