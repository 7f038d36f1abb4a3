"""Values of constraints, of which a batch may have some only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum, world_size
from framework.solvers.variables import described


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
    if not isinstance(result.values, Tensor) or result.values.ndim != 1:
        raise ValueError(f"constraints must return a vector (p,), got {described(result.values)}.")
    if result.rows is not None and total is None:
        raise ValueError("constraints returns numbers of constraints: say num_constraints.")
    if result.rows is None and total is not None and len(result.values) != total:
        raise ValueError(
            f"constraints returned {len(result.values)} values of {total}: return also their "
            "numbers (b,), or leave num_constraints out."
        )
    return result
