"""Exact Pareto Optimal search: descend to where the losses stand in a chosen proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from framework.gradients.combiner import Combination, GradientCombiner, GradientFacts, Scope
from framework.gradients.pareto_lp import Array, Solution, descent, equal, guidance
from framework.utilities.checks import check_at_least


class EPO(GradientCombiner):
    r"""Weighs the gradients of m terms so that a preference decides which compromise is reached.

    A preference r asks for the Pareto optimal point at which all :math:`r_j l_j` are equal: the
    larger r, the smaller the loss. With :math:`\hat l_j = r_j l_j / \sum_i r_i l_i`, the
    non-uniformity :math:`\mu = \sum_j \hat l_j \log(m \hat l_j)` is 0 exactly there, and steps with
    the gradients weighed by :math:`a_j = r_j (\log(m \hat l_j) - \mu)` lower it. With C the inner
    products of the gradients and :math:`J = \{j: (C a)_j > 0\}`, the weights w, not negative and
    of sum 1, are the solution of a linear program:

    ========= =========================== =======================================================
    mode      maximizes                   subject to
    ========= =========================== =======================================================
    balance,  :math:`(C a)^T w`           :math:`(C w)_j \ge 0` for the j whose :math:`r_j l_j` is
    μ > ε                                 largest, and :math:`(C w)_j \ge (C a)_j` outside J; the
                                          rest of J **may rise**; where J is empty,
                                          :math:`C w \ge 0`
    descent,  :math:`1^T C w`             :math:`C w \ge 0`: to first order no term rises; and
    μ ≤ ε                                 :math:`(C a)^T w \ge \min(\max_j (C a)_j, 0)`, which keeps
                                          the balance
    ========= =========================== =======================================================

    Where the latter has no solution, it is solved without the constraint on the balance. Of several
    best weights those nearest to equal ones are taken for up to 4 terms. Where a gradient or a loss
    is NaN or infinite, weights are equal and the step is the plain sum's; a single term weighs 1.
    The weights are multiplied by m, so that equal ones are the plain sum. Neither the size of r nor
    a common factor of all losses counts.

    Losses are the values of the weighted terms and must not be negative; one of 0 counts as the
    smallest number. Steps alternate between the modes near the balance, at a distance of about the
    root of ``epsilon`` in the logarithms of the losses.

    Logs: ``mode`` (0 descent, 1 balance), ``nonuniformity`` (μ), ``feasible`` (0 or 1) and
    ``fallback`` (0 none, 1 without the balance, 2 the shortest weighted mean, 3 equal weights).

    Paper: Mahapatra and Rajan, *Multi-Task Learning with User Preferences: Gradient Descent with
    Controlled Ascent in Pareto Optimization*, ICML 2020; where there are several forms, that of the
    authors' code. Descent is their restricted one, which keeps the balance. The size of r would
    count in the bounds :math:`(C a)_j`; r is divided by its sum, as in their runs with many losses.

    Args:
        preference: Positive number r of each term by its name, or one for each term that has a
            gradient on shared parameters, in the order in which the module's terms stand. A term
            that pulls at some steps only needs a name.
        epsilon: Non-uniformity up to which losses count as balanced.
        scope: Gradients that are compared, as in ``GradientCombiner``.
        every_n_steps: Steps between two decisions.

    Raises:
        ValueError: An argument out of its range; in a step: a term without a preference, another
            number of terms than of preferences, or a negative loss.

    Example:
        >>> import torch
        >>> from framework.gradients import EPO, GradientFacts
        >>> losses = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> facts = GradientFacts(("a", "b"), torch.eye(2, dtype=torch.float64), losses, step=0)
        >>> EPO([1.0, 1.0]).combination(facts).weights
        tensor([1., 0.], dtype=torch.float64)
        >>> EPO([1.0, 4.0]).combination(facts).weights
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    def __init__(
        self,
        preference: dict[str, float] | Sequence[float],
        epsilon: float = 1e-4,
        scope: Scope = "exact",
        every_n_steps: int = 1,
    ) -> None:
        super().__init__(scope, every_n_steps)
        numbers = list(preference.values() if isinstance(preference, dict) else preference)
        if not numbers or not all(0 < r < math.inf for r in numbers):
            raise ValueError(f"preference must be positive numbers, one per term, got {numbers}.")
        check_at_least(0, epsilon=epsilon)
        self.preference: dict[str, float] | tuple[float, ...] = tuple(float(r) for r in numbers)
        if isinstance(preference, dict):
            self.preference = dict(zip(preference, self.preference, strict=True))
        self.epsilon = epsilon

    def combination(self, facts: GradientFacts) -> Combination:
        """Return the solution of the linear program of this step."""
        terms = len(facts.names)
        if terms == 1:
            return Combination(torch.ones(1, dtype=torch.float64))
        r = self._of(facts.names)
        gram = facts.gram.detach().cpu().double().numpy()
        losses = facts.losses.detach().cpu().double().numpy()
        logs = {"mode": 0.0, "nonuniformity": math.nan}
        if np.isfinite(losses).all() and np.isfinite(gram).all():
            lowest = int(losses.argmin())
            if losses[lowest] < 0:
                raise ValueError(
                    f"EPO: losses must not be negative, but {facts.names[lowest]!r} is "
                    f"{losses[lowest]:.6g}."
                )
            solution, logs = self._solve(r, gram, losses)
        else:
            solution = equal(terms)
        logs |= {"feasible": float(solution.fallback == 0), "fallback": float(solution.fallback)}
        return Combination(torch.from_numpy(solution.weights), float(terms), logs)

    def _of(self, names: tuple[str, ...]) -> Array:
        """Return the preferences of these terms."""
        if isinstance(self.preference, dict):
            missing = [name for name in names if name not in self.preference]
            if missing:
                raise ValueError(
                    f"EPO: preference has no number for the term {missing[0]!r}; this step has "
                    f"{', '.join(names)}."
                )
            return np.array([self.preference[name] for name in names])
        if len(names) != len(self.preference):
            raise ValueError(
                f"EPO: preference has {len(self.preference)} numbers, but this step has "
                f"{len(names)} terms with a gradient on shared parameters: {', '.join(names)}; "
                "give the numbers by name."
            )
        return np.array(self.preference)

    def _solve(self, r: Array, gram: Array, losses: Array) -> tuple[Solution, dict[str, float]]:
        r = r / r.sum()
        weighted = r * losses
        total = weighted.sum()
        share = weighted / total if total > 0 else np.full(len(r), 1 / len(r))
        logarithm = np.log(len(r) * share.clip(min=np.finfo(share.dtype).tiny))
        nonuniformity = float(share @ logarithm)
        pull = gram @ (r * (logarithm - nonuniformity))
        logs = {"mode": float(nonuniformity > self.epsilon), "nonuniformity": nonuniformity}
        if nonuniformity > self.epsilon:
            return guidance(gram, pull, weighted == weighted.max()), logs
        return descent(gram, pull), logs
