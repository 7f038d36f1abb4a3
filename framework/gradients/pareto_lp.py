"""The two linear programs of Exact Pareto Optimal search, and what replaces one without answer.

With C the inner products of the terms' gradients, a step against the weighted gradient changes term
j by :math:`-(C w)_j`, to first order and up to the learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from framework.gradients.min_norm import min_norm_weights
from framework.gradients.simplex_lp import Array, maximize_on_simplex

WITHOUT_PULL, MIN_NORM, EQUAL = 1, 2, 3
"""What ``Solution.fallback`` means beside 0, none."""


@dataclass(frozen=True)
class Solution:
    """Weights of the terms, and how they were found.

    Args:
        weights: Weights (m,), not negative and of sum 1.
        fallback: Source of the weights. 0: the linear program had a solution; 1: it had one
            without the constraint on the pull; 2: the weights of the shortest weighted mean;
            3: equal weights, as something was NaN or infinite.
    """

    weights: Array
    fallback: int = 0


def descent(gram: Array, pull: Array | None = None) -> Solution:
    r"""Return the weights under which the terms fall most in total, and none rises.

    Maximizes :math:`1^T C w` with :math:`C w \ge 0` and, given a pull a,
    :math:`a^T w \ge \min(\max_j a_j, 0)`. With the latter there may be no such w. Without it there
    always is one, the shortest weighted mean, which rounding alone can hide.

    Args:
        gram: Inner products C (m, m), finite.
        pull: Helpfulness a (m,) of each term's gradient to what stands behind the pull, finite.
    """
    total = gram.sum(axis=0)
    if pull is not None:
        bounds = np.append(np.zeros(len(gram)), min(pull.max(), 0))
        weights = maximize_on_simplex(total, np.concatenate([gram, pull[None]]), bounds)
        if weights is not None:
            return Solution(weights)
    weights = maximize_on_simplex(total, gram, np.zeros(len(gram)))
    if weights is not None:
        return Solution(weights, WITHOUT_PULL if pull is not None else 0)
    return Solution(min_norm_weights(gram), MIN_NORM)


def guidance(gram: Array, pull: Array, protected: npt.NDArray[np.bool_]) -> Solution:
    r"""Return the weights that follow the pull a most, at the cost of terms that help it.

    Maximizes :math:`a^T w`. Where some a is positive, terms that help, :math:`a_j > 0`, may rise
    unless they are protected; protected ones may not, :math:`(C w)_j \ge 0`; and all others rise no
    more than they would along a, :math:`(C w)_j \ge a_j`. Where none is positive, none may rise.

    Args:
        gram: Inner products C (m, m), finite.
        pull: Helpfulness a (m,) of each term's gradient, finite.
        protected: Terms (m,) bool that may not rise.
    """
    bounds = np.where(protected, 0, pull) if (pull > 0).any() else np.zeros(len(pull))
    bound = protected | (pull <= 0)
    weights = maximize_on_simplex(pull, gram[bound], bounds[bound])
    if weights is not None:
        return Solution(weights)
    return Solution(min_norm_weights(gram), MIN_NORM)


def equal(terms: int) -> Solution:
    """Return equal weights, for gradients of which some is NaN or infinite."""
    return Solution(np.full(terms, 1 / terms), EQUAL)
