"""The curvatures of ``GradNormSmoothNewton`` by name, in its metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from framework.optim.curvature import (
    Curvature,
    MatrixCurvature,
    ZeroCurvature,
    exact_hessian,
    given_matrix,
)
from framework.optim.fisher_curvature import FisherCurvature, latest_gradients
from framework.optim.gauss_newton import ProductCurvature, gauss_newton_product
from framework.optim.reevaluation import Reevaluation

CurvatureName = Literal["zero", "empirical_fisher", "ggn", "exact"]

KINDS: tuple[str, ...] = get_args(CurvatureName)
"""Names of curvatures."""

WITH_PROBLEM = ("ggn", "exact")
"""Names of those that differentiate the loss twice."""

DEFAULT_RANK = 32
"""Gradients of the empirical Fisher."""


def make_curvature(
    options: dict[str, Any],
    at: Reevaluation,
    gradient: Tensor,
    make_matrix: Callable[[], Tensor] | None,
    state: dict[Any, Any],
) -> Curvature:
    """Return the curvature at the present parameters, in coordinates where the metric is 1.

    Args:
        options: Options of the optimizer: its first group.
        at: Loss of the step.
        gradient: Gradient at the present parameters in those coordinates, shape (d,).
        make_matrix: Function that returns the matrix, where ``curvature`` is none of the names.
        state: State of the optimizer, which holds what a curvature keeps from step to step.
    """
    kind = options["curvature"]
    if kind == "zero":
        return ZeroCurvature()
    if kind == "ggn":
        return ProductCurvature(
            lambda: _product(at), options["cg_tolerance"], options["cg_iterations"]
        )
    if kind == "empirical_fisher":
        rank = options["rank"] or DEFAULT_RANK
        return FisherCurvature(latest_gradients(state, gradient, rank))
    if kind == "exact":
        assert at.problem is not None
        matrix = exact_hessian(at.problem, at.params)
    else:
        if make_matrix is None:
            raise ValueError(
                "This state is of a run whose curvature was a function, which no checkpoint holds: "
                "construct the optimizer with that function."
            )
        matrix = given_matrix(make_matrix, len(gradient))
    matrix = matrix.to(gradient) * at.sign
    if at.scale is not None:
        matrix = at.scale[:, None] * matrix * at.scale
    return MatrixCurvature(matrix)


def _product(at: Reevaluation) -> Callable[[Tensor], Tensor]:
    """Return the Gauss-Newton product at the present parameters, in the metric's coordinates."""
    assert at.problem is not None
    product = gauss_newton_product(at.problem, at.params)
    if at.scale is None:
        return lambda v: at.sign * product(v)
    scale = at.scale
    return lambda v: at.sign * scale * product(scale * v)
