"""Linear programs over the simplex, small enough to be solved in every training step."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from framework.gradients.min_norm import Array, min_norm_weights

LARGEST_ENUMERATED = 4
FEASIBLE = 1e-9
"""By how much a constraint may be missed, relative to its largest coefficient."""
TIE = 1e-9
"""Values that differ by less than this part of the sum of their parts' sizes are equal."""


def maximize_on_simplex(objective: Array, rows: Array, bounds: Array) -> Array | None:
    r"""Return the w that maximizes :math:`c^T w` with w >= 0, sum w = 1 and :math:`A w \ge b`.

    Up to m = 4 all vertices are compared, in about 0.1 ms. Of several best w, that nearest to equal
    weights is returned, so that the order of the terms does not matter. Beyond, HiGHS solves the
    problem, and of several best w returns some vertex, the same for the same input.

    Neither the size of c nor that of a row of A together with its entry of b counts.

    Args:
        objective: Coefficients c (m,); m at least 1.
        rows: Constraints A (q, m); q may be 0.
        bounds: Lower bounds b (q,).

    Returns:
        Solution (m,), or None if no w meets the constraints.

    Example:
        >>> import numpy as np
        >>> from framework.gradients.simplex_lp import maximize_on_simplex
        >>> rows, bounds = np.array([[1.0, -1.0, 0.0]]), np.array([0.0])
        >>> maximize_on_simplex(np.array([0.0, 1.0, 0.2]), rows, bounds)
        array([0.5, 0.5, 0. ])
    """
    # of sum 1, w meets A w >= b where it meets (A - b) w >= 0, which may be scaled at will
    rows = rows - bounds[:, None]
    rows = rows[rows.min(axis=1) < 0]
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    largest = np.abs(objective).max()
    objective = objective / largest if largest > 0 else objective
    if len(objective) > LARGEST_ENUMERATED:
        return _by_highs(objective, rows)
    return _by_vertices(objective, rows)


def _by_vertices(objective: Array, rows: Array) -> Array | None:
    m = len(objective)
    # a constraint on u = scale * w, which is as strict for terms with small coefficients
    scale = np.abs(rows).max(axis=0, initial=0)
    scale[scale == 0] = 1
    constraints = np.concatenate([np.eye(m), rows / scale])
    active = constraints[_choices(len(constraints), m - 1)]
    systems = np.concatenate([np.ones((len(active), 1, m)), active], axis=1)
    systems = systems[np.abs(np.linalg.det(systems)) > 1e-12]
    u = np.linalg.solve(systems, np.eye(m)[:, :1])[..., 0]
    u /= np.abs(u).max(axis=1, keepdims=True)
    u = u[(u @ constraints.T >= -FEASIBLE).all(axis=1)]
    if len(u) == 0:
        return None
    vertices = np.where(u < FEASIBLE, 0, u) / scale
    vertices /= vertices.sum(axis=1, keepdims=True)
    values = vertices @ objective
    tie = TIE * (vertices @ np.abs(objective)).max()
    best = vertices[values >= values.max() - tie]
    if (np.ptp(best, axis=0) < TIE).all():
        return best[0]
    return min_norm_weights(best @ best.T) @ best


def _by_highs(objective: Array, rows: Array) -> Array | None:
    from scipy.optimize import linprog

    m = len(objective)
    result = linprog(
        -objective,
        A_ub=-rows,
        b_ub=np.zeros(len(rows)),
        A_eq=np.ones((1, m)),
        b_eq=np.ones(1),
        method="highs",
    )
    if not result.success:
        return None
    w = result.x.clip(min=0)
    return w / w.sum()


@cache
def _choices(items: int, number: int) -> npt.NDArray[np.intp]:
    """Return (n, number): every choice of so many of the items."""
    return np.array(list(combinations(range(items), number)), dtype=np.intp)
