"""Gradients weighed by a linear program that the loss on held-out data steers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.gradients.combiner import Combination, GradientCombiner, GradientFacts, Scope
from framework.gradients.pareto_lp import Array, Solution, descent, equal, guidance
from framework.objectives.errors import IncompatibleError
from framework.utilities.checks import check_at_least, check_interval, check_one_of

Mode = Literal["descent", "guidance", "auto"]


@dataclass(frozen=True)
class GuidedWeights:
    """What ``HeldOutGuidedLP.solve`` found.

    Args:
        weights: Weights (m,) float64, not negative and of sum 1.
        mode: Linear program that was solved.
        feasible: Whether it had a solution.
        fallback: Source of the weights otherwise; 0 for nothing, 1 for the descent program without
            the constraint on the guide, 2 for the shortest weighted mean, 3 for equal weights.
    """

    weights: Tensor
    mode: Literal["descent", "guidance"]
    feasible: bool
    fallback: int


class HeldOutGuidedLP(GradientCombiner):
    r"""Weighs the gradients of m terms by a linear program, steered by a held-out loss.

    With C the inner products of the terms' gradients, and a those with the gradient of the guide,
    the loss on held-out data, :math:`J = \{j: a_j > 0\}` are the terms that help the guide and
    :math:`J^*` the one that helps most. The weights w, not negative and of sum 1, are the solution
    of

    ========== ================= ==================================================================
    mode       maximizes         subject to
    ========== ================= ==================================================================
    descent    :math:`1^T C w`   :math:`C w \ge 0`: to first order no term rises; and with
                                 ``heldout_constraint`` :math:`a^T w \ge \min(\max_j a_j, 0)`: the
                                 guide rises no more than it must
    guidance   :math:`a^T w`     :math:`(C w)_j \ge 0` for :math:`J^*`, :math:`(C w)_j \ge a_j`
                                 outside J, nothing for the rest of J, which **may rise**; where J
                                 is empty, :math:`C w \ge 0`
    auto       that of guidance while the guide's value is above ``epsilon``, else that of descent
    ========== ================= ==================================================================

    The descent program may have no solution together with its constraint on the guide. Then it is
    solved without; should rounding hide that solution too, the weights are those of the shortest
    weighted mean of the gradients (MGDA). A guide that is missing in a step, or not finite, counts
    as none, and the descent program is solved without it. Where a term's gradient is NaN or
    infinite, weights are equal: the step is the plain sum's, no less spoilt than without a
    combiner. Gradients that are all 0 weigh equally, and a single term weighs 1.

    Of several best weights those nearest to equal ones are taken for up to 4 terms, and beyond the
    vertex that HiGHS finds, the same for the same input.

    The programs do not change when all terms and the guide are scaled alike, while guidance does
    when the guide alone is.

    Logs: ``mode`` (0 descent, 1 guidance), ``feasible`` (0 or 1), ``fallback`` (0 none, 1 without
    the guide, 2 shortest mean, 3 equal weights) and ``vertex`` (1 where one term has all weight).

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137; its programs are
    those of Exact Pareto Optimal search, Mahapatra and Rajan, ICML 2020. Both the paper and its
    code choose the mode by a guide whose value is never positive, so that the code always takes
    the descent program, with the constraint, which the paper does not have. This is the default
    here. ``auto`` is what the paper says, for a guide whose least value is 0. Beware that guidance
    mostly gives all weight to the term that resembles the guide, and is unstable: ``mix`` tempers
    it. Where its program has no solution, the code takes equal weights. Before it applies the
    weights, the code sends classification and alignment backward, for head and discriminator, and
    keeps what that leaves in body and bottleneck: ``plain_terms`` adds it.

    Args:
        mode: Linear program: ``descent``, ``guidance`` or ``auto``.
        epsilon: Value of the guide up to which ``auto`` descends.
        heldout_constraint: Whether the descent program has the constraint on the guide.
        mix: Share of the weight, in [0, 1], that is spread equally. Above 0 the constraints hold no
            more.
        rescale: Whether to multiply by m, as the code does, so that equal weights are the plain
            sum; False for a weighted mean, as in the paper.
        plain_terms: Names of the terms whose gradient is added once more as it is; of the released
            code these are ``classification`` and ``alignment``. The programs do not know of it.
        scope: Gradients that are compared, as in ``GradientCombiner``; ``representation`` with
            ``descent`` only. There C is of gradients of the features and a of their sums over the
            rows, and the descent program alone does not depend on the size of a.
        every_n_steps: Steps between two decisions.

    Raises:
        ValueError: An argument out of its range, or ``representation`` with another mode.

    Example:
        >>> import torch
        >>> from framework.gradients import HeldOutGuidedLP
        >>> gradients = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [0.2, 0.3]], dtype=torch.float64)
        >>> gram, guide = gradients @ gradients.T, gradients @ gradients.new_tensor([0.3, 1.0])
        >>> HeldOutGuidedLP().weights(gram, guide)
        tensor([0.3333, 0.6667, 0.0000], dtype=torch.float64)
        >>> HeldOutGuidedLP(mode="guidance").weights(gram, guide)
        tensor([0., 1., 0.], dtype=torch.float64)
    """

    guided = True

    def __init__(
        self,
        mode: Mode = "descent",
        epsilon: float = 1e-3,
        heldout_constraint: bool = True,
        mix: float = 0.0,
        rescale: bool = True,
        plain_terms: Sequence[str] = (),
        scope: Scope = "exact",
        every_n_steps: int = 1,
    ) -> None:
        super().__init__(scope, every_n_steps)
        check_one_of(get_args(Mode), mode=mode)
        check_at_least(0, epsilon=epsilon)
        check_interval("[0, 1]", mix=mix)
        if scope == "representation" and mode != "descent":
            raise ValueError(
                f"Mode {mode!r} compares the size of the guide's gradient with "
                "those of the terms, which scope 'representation' does not know; take mode "
                "'descent' or scope 'exact'."
            )
        self.mode: Mode = mode
        self.epsilon = epsilon
        self.heldout_constraint = heldout_constraint
        self.mix = mix
        self.rescale = rescale
        self.plain_terms = tuple(plain_terms)

    def check_terms(self, names: Sequence[str]) -> None:
        """Raise ``IncompatibleError`` if a plain term is none of the run's."""
        for name in self.plain_terms:
            if name not in names:
                raise IncompatibleError(
                    f"HeldOutGuidedLP: plain_terms names {name!r}, which is none of this run's "
                    f"terms, {', '.join(names)}."
                )

    def combination(self, facts: GradientFacts) -> Combination:
        """Return the solution of the linear program."""
        solution = self.solve(facts.gram, facts.guide, facts.guide_loss)
        weights = solution.weights
        logs = {
            "mode": float(solution.mode == "guidance"),
            "feasible": float(solution.feasible),
            "fallback": float(solution.fallback),
            "vertex": float(weights.max() > 1 - 1e-6),
        }
        scale = float(len(weights)) if self.rescale else 1.0
        plain = torch.tensor([name in self.plain_terms for name in facts.names]).double()
        return Combination(weights, scale, logs, plain if self.plain_terms else None)

    def weights(
        self, gram: Tensor, guide: Tensor | None = None, guide_loss: float | None = None
    ) -> Tensor:
        """Return the weights alone, (m,) float64; see ``solve``."""
        return self.solve(gram, guide, guide_loss).weights

    def solve(
        self, gram: Tensor, guide: Tensor | None = None, guide_loss: float | None = None
    ) -> GuidedWeights:
        """Return the weights and how they were found.

        Args:
            gram: Inner products (m, m) of the terms' gradients.
            guide: Inner products (m,) with the guide's gradient; None in a step without a guide.
            guide_loss: Value of the guide, which mode ``auto`` asks for.

        Raises:
            ValueError: Shapes that do not fit, or ``auto`` with a guide but no value of it.
        """
        terms = len(gram)
        if gram.shape != (terms, terms) or (guide is not None and guide.shape != (terms,)):
            given = "none" if guide is None else tuple(guide.shape)
            raise ValueError(
                f"HeldOutGuidedLP takes a gram (m, m) and a guide (m,), got {tuple(gram.shape)} "
                f"and {given}."
            )
        if self.mode == "auto" and guide is not None and guide_loss is None:
            raise ValueError("HeldOutGuidedLP: mode 'auto' needs guide_loss.")
        pull = _usable(guide, guide_loss)
        mode = self._mode_of_step(pull, guide_loss)
        solution = self._solve(gram.detach().cpu().double().numpy(), pull, mode)
        weights = (1 - self.mix) * torch.from_numpy(solution.weights) + self.mix / terms
        return GuidedWeights(weights, mode, solution.fallback == 0, solution.fallback)

    def _mode_of_step(
        self, pull: Array | None, guide_loss: float | None
    ) -> Literal["descent", "guidance"]:
        if pull is None or self.mode == "descent":
            return "descent"
        below = guide_loss is not None and guide_loss <= self.epsilon
        return "descent" if self.mode == "auto" and below else "guidance"

    def _solve(self, gram: Array, pull: Array | None, mode: str) -> Solution:
        if len(gram) == 1:
            return Solution(np.ones(1))
        if not np.isfinite(gram).all():
            return equal(len(gram))
        if pull is None:
            wanted = self.mode != "descent" or self.heldout_constraint
            solution = descent(gram)
            return replace(solution, fallback=max(solution.fallback, int(wanted)))
        if mode == "guidance":
            return guidance(gram, pull, pull == pull.max())
        return descent(gram, pull if self.heldout_constraint else None)


def _usable(guide: Tensor | None, guide_loss: float | None) -> Array | None:
    """Return the guide's products; None if there are none or something is NaN or infinite."""
    if guide is None or not (guide.isfinite().all() and math.isfinite(guide_loss or 0)):
        return None
    return guide.detach().cpu().double().numpy()
