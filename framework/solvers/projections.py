"""Euclidean projections onto convex sets, each a map of one vector to the nearest point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from framework.solvers.variables import Variables, tensors_of, write
from framework.utilities.checks import check_positive


class Box:
    """Projects onto ``low <= v <= high``, entry by entry.

    Args:
        low: Lower bound, a number or a tensor; None for none.
        high: Upper bound, a number or a tensor; None for none.

    Raises:
        ValueError: No bound, or a lower one above the upper.

    Example:
        >>> Box(low=0.0)(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(
        self, low: float | Tensor | None = None, high: float | Tensor | None = None
    ) -> None:
        if low is None and high is None:
            raise ValueError("A box needs low, high or both.")
        if low is not None and high is not None:
            gap = torch.as_tensor(high) - torch.as_tensor(low)
            if (gap < 0).any():
                raise ValueError(f"low={low} lies above high={high}: no point is between them.")
        self.low = low
        self.high = high

    def __call__(self, v: Tensor) -> Tensor:
        """Return the nearest point."""
        if self.low is not None:
            v = torch.maximum(v, torch.as_tensor(self.low, dtype=v.dtype, device=v.device))
        if self.high is not None:
            v = torch.minimum(v, torch.as_tensor(self.high, dtype=v.dtype, device=v.device))
        return v


class Ball:
    """Projects onto the vectors of at most a norm.

    Args:
        radius: Largest Euclidean norm.

    Raises:
        ValueError: ``radius`` is not positive.

    Example:
        >>> Ball(radius=1.0)(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """

    def __init__(self, radius: float) -> None:
        check_positive(radius=radius)
        self.radius = radius

    def __call__(self, v: Tensor) -> Tensor:
        """Return the nearest point."""
        # at the origin nothing is divided by 0
        return v * (self.radius / v.norm().clamp(min=self.radius))


class Simplex:
    """Projects onto non-negative vectors that sum to ``total``.

    By sorting: the entries are moved down by one number and cut off at 0.

    Args:
        total: Sum of the entries.

    Raises:
        ValueError: ``total`` is not positive.

    Example:
        >>> Simplex()(torch.tensor([0.5, 1.5, -1.0]))
        tensor([0., 1., 0.])
    """

    def __init__(self, total: float = 1.0) -> None:
        check_positive(total=total)
        self.total = total

    def __call__(self, v: Tensor) -> Tensor:
        """Return the nearest point."""
        descending = v.sort(descending=True).values
        places = torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device)
        shifts = (descending.cumsum(0) - self.total) / places
        above = int((descending > shifts).sum()) - 1
        return (v - shifts[above]).clamp(min=0)


class AffineSet:
    """Projects onto ``A v = b``.

    In closed form: ``v - A^T (A A^T)^+ (A v - b)``. A row that follows from others is allowed.

    Args:
        matrix: Left-hand side A (p, n), or (n,) for one equation.
        offset: Right-hand sides b (p,), or a number for all.

    Raises:
        ValueError: No vector satisfies the equations.

    Example:
        >>> AffineSet(torch.ones(2), 4.0)(torch.tensor([0.0, 2.0]))
        tensor([1., 3.])
    """

    def __init__(self, matrix: Tensor, offset: Tensor | float = 0.0) -> None:
        self.matrix = torch.atleast_2d(matrix)
        right = torch.as_tensor(offset, dtype=matrix.dtype, device=matrix.device)
        self.offset = right.expand(len(self.matrix))
        self._inverse = torch.linalg.pinv(self.matrix)
        misfit = self.matrix @ (self._inverse @ self.offset) - self.offset
        largest = 1 + float(self.offset.abs().max())
        if float(misfit.abs().max()) > 1e3 * torch.finfo(matrix.dtype).eps * largest:
            raise ValueError("No vector satisfies all equations of the affine set.")

    def __call__(self, v: Tensor) -> Tensor:
        """Return the nearest point."""
        matrix, inverse, offset = (t.to(v) for t in (self.matrix, self._inverse, self.offset))
        return v - inverse @ (matrix @ v - offset)


class Polyhedron:
    """Projects onto ``A v <= b``.

    Exactly, in float64 on the CPU, as least squares with non-negative unknowns (Lawson and Hanson
    1974, chapter 23), which SciPy solves; meant for up to about a thousand inequalities.

    Args:
        matrix: Left-hand side A (p, n).
        offset: Right-hand sides b (p,).

    Raises:
        ValueError: Shapes that do not fit, or (when called) no vector satisfies the inequalities.

    Example:
        >>> Polyhedron(torch.eye(2), torch.ones(2))(torch.tensor([3.0, 0.0]))
        tensor([1., 0.])
    """

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        if matrix.ndim != 2 or offset.shape != matrix.shape[:1]:
            raise ValueError(
                f"A polyhedron needs a matrix (p, n) and an offset (p,), got {tuple(matrix.shape)} "
                f"and {tuple(offset.shape)}."
            )
        self.matrix = matrix.detach().cpu().double().numpy()
        self.offset = offset.detach().cpu().double().numpy()

    def __call__(self, v: Tensor) -> Tensor:
        """Return the nearest point."""
        from scipy.optimize import nnls

        start = v.detach().cpu().double().numpy()
        slack = self.offset - self.matrix @ start
        if (slack >= 0).all():
            return v
        # rows of one length, so that the threshold below means the same for every polyhedron
        scale = max(1.0, float(np.abs(slack).max()))
        system = np.vstack([-self.matrix.T, -slack[None] / scale])
        right = np.zeros(len(system))
        right[-1] = 1
        multipliers, _ = nnls(system, right)
        residual = system @ multipliers - right
        if np.linalg.norm(residual) < 1e-9:
            raise ValueError("No vector satisfies all inequalities of the polyhedron.")
        step = -residual[:-1] / residual[-1] * scale
        return torch.from_numpy(start + step).to(v)


def flat(projection: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    """Return a projection of several variables, as one vector and in place, for ``LVHBA``.

    Args:
        projection: Map of a vector to the nearest point of a set.

    Example:
        >>> x, y = torch.zeros(1), torch.tensor([2.0])
        >>> flat(AffineSet(torch.ones(2), 4.0))(x, y)
        >>> x, y
        (tensor([1.]), tensor([3.]))
    """

    @torch.no_grad()
    def project(*variables: Variables) -> None:
        tensors = [tensor for part in variables for tensor in tensors_of(part)]
        nearest = projection(torch.cat([tensor.flatten() for tensor in tensors]))
        parts = nearest.split([tensor.numel() for tensor in tensors])
        write(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])

    return project
