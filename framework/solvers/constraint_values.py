"""Values of constraints, of which a batch may have some only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum, rank, world_size


class ConstraintValues(NamedTuple):
    """Values (b,) of constraints and their numbers (b,), or None where they are all p."""

    values: Tensor
    rows: Tensor | None = None

    def weighted(self, multipliers: Tensor) -> Tensor:
        """Return the scalar whose gradient's mean over ranks is that of the multiplied sum."""
        if self.rows is None:
            return multipliers.to(self.values.dtype) @ self.values
        # each rank has constraints of its own, which add up
        return world_size() * (multipliers[self.rows].to(self.values.dtype) @ self.values)

    def everywhere(self, like: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return values (p,) over all ranks, and 1 for what the batch has, 0 for the others."""
        values = self.values.detach().to(like.dtype)
        if self.rows is None:
            return values, 1.0
        found = torch.stack([torch.zeros_like(like), torch.zeros_like(like)])
        found[0].index_put_((self.rows,), values)
        found[1, self.rows] = 1
        found = all_reduce_sum(found)
        return found[0], found[1]


def evaluate(
    constraints: Callable[..., Any], x: Any, y: Any, batch: tuple[Any, ...], total: int | None
) -> ConstraintValues:
    """Return what a function of constraints gives, checked.

    Args:
        constraints: Function of x, y and the batch.
        x: Upper variables.
        y: Lower variables, or their copy.
        batch: What the function gets beside them.
        total: Number of all constraints; None for those that the function returns.

    Raises:
        ValueError: No vector, or numbers of constraints without their total.
    """
    found = constraints(x, y, *batch)
    result = ConstraintValues(*found) if isinstance(found, tuple) else ConstraintValues(found)
    if result.values.ndim != 1:
        raise ValueError(
            f"constraints must return a vector (p,), got the shape {tuple(result.values.shape)}."
        )
    if result.rows is not None and total is None:
        raise ValueError("constraints returns numbers of constraints: say num_constraints.")
    if result.rows is None and total is not None and len(result.values) != total:
        raise ValueError(
            f"constraints returned {len(result.values)} values of {total}: return also their "
            "numbers (b,), or leave num_constraints out."
        )
    return result


def jacobian_norm(values: Tensor, tensors: Sequence[Tensor], iterations: int = 30) -> float:
    """Return the spectral norm of the derivative of values (p,) in tensors, by power iteration.

    Args:
        values: Differentiable function of the tensors.
        tensors: What it is derived in.
        iterations: Number of products with the derivative and its transpose.
    """
    weights = torch.zeros_like(values, requires_grad=True)
    pulled = torch.autograd.grad(
        values, tensors, weights, create_graph=True, retain_graph=True, allow_unused=True
    )
    used = [(t, row) for t, row in zip(tensors, pulled, strict=True) if row is not None]
    used = [(t, row) for t, row in used if row.requires_grad]
    if not used:
        return 0.0
    places, rows = [t for t, _ in used], [row for _, row in used]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t) for t in places]
    size = 0.0
    for _ in range(iterations):
        length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
        (pushed,) = torch.autograd.grad(rows, weights, [d / length for d in direction], True)
        size = float(pushed.norm())
        if size == 0:
            break
        direction = list(torch.autograd.grad(values, places, pushed.detach(), retain_graph=True))
    return size


def warn_of_unstable_steps(
    values: Tensor, tensors: Sequence[Tensor], eta: float, bound: float
) -> None:
    """Warn where steps on variables and multipliers together would spiral outward.

    Args:
        values: Constraints (p,) as a function of the tensors.
        tensors: Variables that descend while the multipliers ascend.
        eta: Step size of both.
        bound: What ``eta`` times the squared norm of the derivative must lie below.
    """
    square = jacobian_norm(values, tensors) ** 2
    if eta * square >= bound and rank() == 0:
        warnings.warn(
            f"eta={eta:g} times the squared norm {square:.3g} of the constraints' gradient is "
            f"{eta * square:.3g}, which must lie below {bound:.3g} for the multipliers to settle: "
            "divide each constraint by the norm of its gradient, or lower eta.",
            stacklevel=4,
        )
