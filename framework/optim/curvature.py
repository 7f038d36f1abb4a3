"""Approximate Hessians, of which a regularized Newton step asks for one solution at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.optim.target_closure import StepProblem

LARGEST_EXACT = 2000
"""Most entries of which the whole Hessian is formed."""

# rows of the Hessian at a time, so that the batch of products stays small beside the network's own
_ROWS = 64


class Curvature(ABC):
    """A symmetric matrix H that stands for the Hessian of a loss at one point.

    All vectors are the parameters' entries one after the other, shape (d,). Where the rows of a
    batch lie on several ranks, H is the mean over ranks and every method is collective.
    """

    @abstractmethod
    def solve(self, gradient: Tensor, shift: float) -> Tensor | None:
        """Return ``(H + shift I)^-1 gradient``, or None where that matrix is not positive."""


class ZeroCurvature(Curvature):
    """No curvature: H = 0, with which a Newton step is one of normalized gradient descent.

    Example:
        >>> ZeroCurvature().solve(torch.tensor([3.0, 4.0]), shift=5.0)
        tensor([0.6000, 0.8000])
    """

    def solve(self, gradient: Tensor, shift: float) -> Tensor | None:
        """Return ``gradient / shift``, or None where ``shift`` is 0."""
        return gradient / shift if shift > 0 else None


class MatrixCurvature(Curvature):
    """A matrix H that is at hand, solved by a Cholesky factorization.

    Args:
        matrix: H, shape (d, d), symmetric.

    Example:
        >>> MatrixCurvature(torch.eye(2)).solve(torch.tensor([3.0, 4.0]), shift=1.0)
        tensor([1.5000, 2.0000])
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def solve(self, gradient: Tensor, shift: float) -> Tensor | None:
        """Return the solution, or None where the factorization fails."""
        shifted = self.matrix.clone()
        shifted.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        # a matrix with NaN passes as positive on some devices
        if failed.item() or not torch.isfinite(factor).all():
            return None
        return torch.cholesky_solve(gradient[:, None], factor)[:, 0]


def flat(tensors: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """Return the entries of tensors one after the other, shape (d,).

    Args:
        tensors: Tensors of any shapes.
        dtype: Dtype of the result; None for that of the tensors.
    """
    return torch.cat([x.reshape(-1).to(dtype or x.dtype) for x in tensors])


def gradient_of(
    value: Tensor, params: Sequence[Tensor], create_graph: bool = False, retain: bool = False
) -> Tensor:
    """Return the gradient of a scalar in all parameters, shape (d,), zero where it has none.

    Args:
        value: Scalar.
        params: Parameters.
        create_graph: Whether the gradient is to be differentiated in turn.
        retain: Whether the graph is used again.
    """
    retain_graph = True if create_graph or retain else None
    if not value.requires_grad:
        return flat([torch.zeros_like(p) for p in params])
    found = torch.autograd.grad(
        value, params, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True
    )
    pairs = zip(params, found, strict=True)
    return flat([torch.zeros_like(p) if g is None else g for p, g in pairs])


def exact_hessian(problem: StepProblem, params: Sequence[Tensor]) -> Tensor:
    """Return the Hessian of the loss of a step at the present parameters, the mean over ranks.

    Shape (d, d) for the d entries of all parameters.

    Args:
        problem: Loss of the step.
        params: Parameters.

    Raises:
        ValueError: d is above ``LARGEST_EXACT``.
    """
    size = sum(p.numel() for p in params)
    if size > LARGEST_EXACT:
        raise ValueError(
            f"The exact Hessian is formed for at most {LARGEST_EXACT} entries, and the parameters "
            f"have {size}: set curvature to 'ggn', which forms no matrix."
        )
    with torch.enable_grad():
        gradient = gradient_of(problem.evaluate()[0], params, create_graph=True)
        hessian = gradient.new_zeros(size, size)
        if gradient.requires_grad:
            for first in range(0, size, _ROWS):
                last = min(first + _ROWS, size)
                hessian[first:last] = _rows(gradient, params, first, last)
    return average_over_ranks([(hessian + hessian.T) / 2])[0]


def _rows(gradient: Tensor, params: Sequence[Tensor], first: int, last: int) -> Tensor:
    """Return rows of the Jacobian of a gradient, all at once where every operation allows it."""
    units = gradient.new_zeros(last - first, len(gradient))
    units[:, first:last].fill_diagonal_(1)
    try:
        return _products(gradient, params, units, batched=True)
    except RuntimeError:
        # an operation without a rule for batches
        return torch.stack([_products(gradient, params, unit, batched=False) for unit in units])


def _products(gradient: Tensor, params: Sequence[Tensor], rows: Tensor, batched: bool) -> Tensor:
    found = torch.autograd.grad(
        gradient, params, rows, retain_graph=True, allow_unused=True, is_grads_batched=batched
    )
    lead = rows.shape[:-1]
    parts = [
        p.new_zeros(*lead, p.numel()) if g is None else g.reshape(*lead, p.numel())
        for p, g in zip(params, found, strict=True)
    ]
    return torch.cat(parts, dim=-1).detach()


def given_matrix(make: Callable[[], Tensor], size: int) -> Tensor:
    """Return the matrix that a function gives at the present parameters, the mean over ranks.

    Args:
        make: Function that returns it.
        size: Number d of its rows and columns.

    Raises:
        ValueError: It has another shape than (d, d).
    """
    with torch.no_grad():
        matrix = make()
    if matrix.shape != (size, size):
        raise ValueError(
            f"A curvature must be a ({size}, {size}) matrix, one row per entry of the parameters, "
            f"got shape {tuple(matrix.shape)}."
        )
    return average_over_ranks([matrix])[0]
