"""Gradient descent whose step size is searched until the loss has fallen enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.averages import average_over_ranks
from framework.optim.momentum_optimizer import has_gradient
from framework.optim.shared_options import check_shared
from framework.optim.target_closure import StepProblem, problem_of
from framework.utilities.checks import check_at_least, check_interval, check_positive
from framework.utilities.precision import at_least_float32
from framework.utilities.randomness import capture_rng, drawing_from

Loss = Callable[[], Tensor | float]

Line = tuple[Tensor, Tensor, Tensor, float]
"""A parameter, where the step begins, its gradient and its learning rate."""

_SEARCH = "search"
_SHARED = ("c", "backtracking", "expansion", "max_scale", "max_trials", "min_scale", "maximize")


class ArmijoLineSearch(Optimizer):
    r"""Gradient descent with backtracking on a deterministic loss.

    A step is :math:`x - s \, lr \nabla f` with the first s of the trials that fulfills Armijo's
    condition :math:`f(x - s \, lr \nabla f) \le f(x) - c \, s \, lr \lVert \nabla f \rVert^2`. The
    first s of a step is the last one that was accepted times ``expansion``; groups may have
    different learning rates, and s is theirs together. Where no trial fulfills it the parameters
    stay as they were, ``failed`` is true, and the next step starts at s = 1 again.

    All ranks decide alike, by the mean of the loss over ranks. A plain loop hands over a closure
    that sets the gradients and returns the loss; it is called again for every trial, with the same
    random numbers, unless ``loss`` or a ``StepProblem`` evaluates the loss more cheaply.

    Paper: the inner solver of Lavington et al., *Target-based Surrogates for Stochastic
    Optimization*, ICML 2023, arXiv:2302.02607, with the constants of its code.

    Args:
        params: Parameters or parameter groups.
        lr: First trial of the first step.
        c: Share of the decrease predicted by the gradient that has to be reached.
        backtracking: Factor from one trial to the next.
        expansion: Factor from an accepted step to the next step's first trial.
        max_scale: Largest trial, as a multiple of the learning rate; None for no limit.
        max_trials: Number of trials after which a step gives up.
        min_scale: Smallest trial, as a multiple of the learning rate.
        maximize: Whether to ascend rather than descend.

    Raises:
        ValueError: an argument is out of range, or differs between groups where it must not.
        RuntimeError: no closure, or sparse gradients.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0]))
        >>> optimizer = ArmijoLineSearch([x], lr=4.0, backtracking=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (0.5 * x.square()).sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure).item(), optimizer.last_scale, x.item()
        (4.5, 0.25, 0.0)
    """

    needs_closure: ClassVar[bool] = True
    needs_problem: ClassVar[bool] = True
    couples_entries: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        c: float = 0.1,
        backtracking: float = 0.9,
        expansion: float = 2.0,
        max_scale: float | None = None,
        max_trials: int = 100,
        min_scale: float = 1e-6,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "c": c,
            "backtracking": backtracking,
            "expansion": expansion,
            "max_scale": max_scale,
            "max_trials": max_trials,
            "min_scale": min_scale,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose options take the place of the defaults."""
        options = self.defaults | param_group
        check_at_least(0, lr=options["lr"])
        check_interval("(0, 1)", c=options["c"], backtracking=options["backtracking"])
        check_at_least(1, expansion=options["expansion"], max_trials=options["max_trials"])
        check_positive(min_scale=options["min_scale"])
        check_at_least(options["min_scale"], max_scale=options["max_scale"])
        check_shared([*self.param_groups, options], _SHARED)
        super().add_param_group(param_group)

    @property
    def last_scale(self) -> float:
        """Multiple of the learning rate that the latest step took, 0 where it failed."""
        return 0.0 if self.failed else float(self._search["scale"])

    @property
    def failed(self) -> bool:
        """Whether no trial of the latest step fulfilled the condition."""
        return bool(self._search["failed"])

    @property
    def trials(self) -> int:
        """Number of trials of the latest step."""
        return int(self._search["trials"])

    @property
    def _search(self) -> dict[str, Any]:
        found = self.state.get(_SEARCH)  # type: ignore[call-overload]
        return found or {"scale": 0.0, "failed": False, "trials": 0}

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor | float] | None = None,
        problem: StepProblem | None = None,
        loss: Loss | None = None,
    ) -> Tensor | float:
        """Take one step and return the loss before it.

        Args:
            closure: Function that sets the gradients and returns the loss.
            problem: The step's loss as a function of the parameters, for the trials.
            loss: Function that returns the loss alone, for the trials.
        """
        if closure is None:
            raise RuntimeError("ArmijoLineSearch.step needs a closure that returns the loss.")
        problem = problem_of(closure, problem)
        random = capture_rng() if problem is None and loss is None else {}
        with torch.enable_grad():
            before = closure()
        if loss is None and problem is not None:
            loss = problem_loss(problem)
        lines = [
            (p, p.clone(), p.grad, -group["lr"] if group["maximize"] else group["lr"])
            for group in self.param_groups
            for p in group["params"]
            if has_gradient(p)
        ]
        if any(gradient.is_sparse for _, _, gradient, _ in lines):
            raise RuntimeError("ArmijoLineSearch does not support sparse gradients.")
        if loss is not None:
            self._backtrack(lines, before, loss)
        else:
            # a closure that is called again may write into the gradients
            kept = [(p, origin, gradient.clone(), lr) for p, origin, gradient, lr in lines]
            self._backtrack(kept, before, _again(closure, random))
            for parameter, _, gradient, _ in kept:
                parameter.grad = gradient
        return before

    def _backtrack(self, lines: list[Line], before: Tensor | float, loss: Loss) -> None:
        if not lines:
            return
        options = self.param_groups[0]
        sign = -1.0 if options["maximize"] else 1.0
        start = sign * _mean(before)
        # decrease per unit of scale that the gradient predicts
        slope = sum(abs(lr) * _square(gradient) for _, _, gradient, lr in lines)
        old = self._search
        fresh = old["failed"] or not old["scale"]
        scale = 1.0 if fresh else old["scale"] * options["expansion"]
        if options["max_scale"] is not None:
            scale = min(scale, options["max_scale"])
        found, trials = False, 0
        while (
            not found
            and math.isfinite(start)
            and trials < options["max_trials"]
            and scale >= options["min_scale"]
        ):
            trials += 1
            for parameter, origin, gradient, lr in lines:
                parameter.copy_(origin).add_(gradient, alpha=-(scale * lr))
            found = sign * _mean(loss()) <= start - options["c"] * scale * slope
            if not found:
                scale *= options["backtracking"]
        if not found:
            for parameter, origin, _, _ in lines:
                parameter.copy_(origin)
        search = {"scale": scale, "failed": not found, "trials": trials}
        self.state[_SEARCH] = search  # type: ignore[index]


def problem_loss(problem: StepProblem) -> Loss:
    """Return the function that evaluates a problem's loss, this rank's."""

    def loss() -> Tensor:
        return problem.evaluate()[0].detach()

    return loss


def _again(closure: Callable[[], Tensor | float], random: dict[str, Any]) -> Loss:
    """Return the function that calls a closure with the random numbers of its first call."""

    def loss() -> Tensor | float:
        with torch.enable_grad(), drawing_from(random):
            return closure()

    return loss


def _mean(loss: Tensor | float) -> float:
    """Return the mean of a loss over ranks."""
    value = loss if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64)
    return float(average_over_ranks([value])[0].item())


def _square(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(at_least_float32(gradient)).item()) ** 2
