"""Newton's method with the regularization that gradient-normalized smoothness asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.optim.curvature_kinds import KINDS, WITH_PROBLEM, CurvatureName, make_curvature
from framework.optim.diagonal_metric import check_metric, inverse_root
from framework.optim.newton_search import first_passing
from framework.optim.reevaluation import Evaluation, Reevaluation, working_dtype
from framework.optim.shared_options import check_shared
from framework.optim.target_closure import StepProblem, problem_of
from framework.utilities.checks import check_at_least, check_one_of, check_positive


class GradNormSmoothNewton(Optimizer):
    """Newton's method whose regularization follows the norm of the gradient.

    A step is ``x - (H + |g| / gamma)^-1 g``. It is taken if the loss falls by at least
    ``|g+|^2 gamma / (8 |g|)``, g+ being the gradient where it leads, and gamma then doubles;
    otherwise gamma halves and the step is tried again. So gamma finds the radius in which H
    predicts the gradient, with no learning rate. For full batches or very large ones, and few
    parameters: heads, linear probes, small problems.

    All groups are stepped together, with the same options but for ``metric``. The groups' ``lr``
    shows gamma, for monitors; no schedule may set it. A step that no try completed leaves the
    parameters alone and sets ``state["search"]["accepted"]`` to False. Train in float32, bfloat16
    or float64; float16's gradient scaler gives no closure. Do not clip gradients, as the loss is
    compared with them.

    Paper: Semenov, Jaggi and Doikov, Gradient-Normalized Smoothness for Optimization with
    Approximate Hessians, ICLR 2026, arXiv:2506.13710. The authors' code goes on from a failed
    factorization with the previous step, and takes the last of 40 rejected steps; here a failure
    is a rejection, and a step without success is none.

    Cost: about 2 evaluations a step, and one solution for each.

    Args:
        params: Parameters or parameter groups.
        gamma0: Radius gamma of the first try.
        curvature: Matrix H: ``zero``; ``empirical_fisher``, of the gradients of the latest steps;
            ``ggn``, Gauss-Newton by conjugate gradients; ``exact``, the Hessian, for at most 2,000
            entries; or a function that returns H, a (d, d) tensor, at the present parameters.
        rank: Number of gradients of the empirical Fisher; None for 32.
        damping: Number added to ``|g| / gamma``.
        max_search: Most tries of a step.
        gamma_min: Smallest gamma with which a step begins.
        gamma_max: Largest gamma; the default is as far from 1 as 40 halvings reach.
        metric: Diagonal of a metric B in which norms are measured and steps regularized: a positive
            tensor for each parameter, of its shape; None for 1.
        eps: Number added to gamma in the division; the authors' code adds 1e-8.
        cg_tolerance: Residual of ``ggn``'s conjugate gradients, relative to the gradient.
        cg_iterations: Most iterations of ``ggn``'s conjugate gradients.
        full_batch: Whether every step has the same loss function and nothing else moves the
            parameters. In a loop of one's own, a step then begins with the loss and the gradient
            with which the last one ended, which saves one evaluation in two.
        maximize: Whether to ascend rather than descend.

    Raises:
        ValueError: An argument is out of range, groups differ in one, or ``exact`` or ``ggn`` is
            stepped without a ``StepProblem``.
        RuntimeError: Sparse or complex gradients, no closure, or a schedule of the learning rate.

    Example:
        >>> from framework.optim import TargetClosure
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 1.0]))
        >>> optimizer = GradNormSmoothNewton([x], curvature="exact", full_batch=True)
        >>> closure = TargetClosure([x], lambda: x, lambda z: z.square().sum() + z.exp().sum())
        >>> for _ in range(8):
        ...     loss = optimizer.step(closure)
        >>> x.detach()
        tensor([-0.3517, -0.3517])
    """

    needs_closure = True
    needs_problem = True
    couples_entries = True

    def __init__(
        self,
        params: Iterable[Any],
        gamma0: float = 1.0,
        curvature: CurvatureName | Callable[[], Tensor] = "zero",
        rank: int | None = None,
        damping: float = 0.0,
        max_search: int = 40,
        gamma_min: float = 1e-9,
        gamma_max: float = 1e12,
        metric: Sequence[Tensor] | None = None,
        eps: float = 0.0,
        cg_tolerance: float = 1e-6,
        cg_iterations: int = 250,
        full_batch: bool = False,
        maximize: bool = False,
    ) -> None:
        self._make_matrix = curvature if callable(curvature) else None
        defaults = {
            "lr": gamma0,
            "gamma0": gamma0,
            # a checkpoint holds no function
            "curvature": "given" if callable(curvature) else curvature,
            "rank": rank,
            "damping": damping,
            "max_search": max_search,
            "gamma_min": gamma_min,
            "gamma_max": gamma_max,
            "metric": metric,
            "eps": eps,
            "cg_tolerance": cg_tolerance,
            "cg_iterations": cg_iterations,
            "full_batch": full_batch,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which must have the options of the others."""
        options = self.defaults | param_group
        _check(options, self._make_matrix is not None)
        shared = [name for name in self.defaults if name not in ("metric", "lr")]
        check_shared([*self.param_groups, options], shared)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if any(p.is_complex() for p in group["params"]):
            raise RuntimeError("GradNormSmoothNewton does not support complex parameters.")
        check_metric(group["params"], group["metric"])
        # vectors of fewer entries
        self._kept.pop("window", None)
        if "search" in self._kept:
            kept = self._kept["search"].items()
            self._kept["search"] = {k: v for k, v in kept if k not in ("loss", "gradient")}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of, which ``torch.optim`` takes to be groups and state."""
        return super().__getstate__() | {"_make_matrix": self._make_matrix}

    @property
    def _kept(self) -> dict[Any, Any]:
        """State, of which this optimizer has none for each parameter."""
        return cast("dict[Any, Any]", self.state)

    def step(
        self, closure: Callable[[], Any] | None = None, problem: StepProblem | None = None
    ) -> Any:
        """Take one step and return the loss where it began.

        Args:
            closure: Closure that sets the gradients and returns the loss. Without a problem it is
                called again for every try.
            problem: Loss of the step as a function of the parameters, which is then evaluated in
                the closure's place; None for the closure, where that is one.
        """
        problem = self._problem_of(closure, problem)
        assert closure is not None
        options, params = self.param_groups[0], self._trained()
        sign = -1.0 if options["maximize"] else 1.0
        scale = inverse_root(self.param_groups, working_dtype(params))
        evaluate = Reevaluation(closure, problem, params, scale, sign)
        search = self._kept.get("search") or _fresh(options)
        if options["full_batch"] and evaluate.in_own_loop and "loss" in search:
            start = evaluate.evaluation(search["loss"], search["gradient"])
            result = start.loss
            if problem is not None:
                _set_gradients(params, start.gradient)
        else:
            result, start = evaluate.first()
            search = search | {"evaluations": search["evaluations"] + 1}
        self._kept["search"] = self._searched(evaluate, start, search)
        for group in self.param_groups:
            group["lr"] = self._kept["search"]["gamma"]
        return result

    def _searched(
        self, evaluate: Reevaluation, start: Evaluation, search: dict[str, Any]
    ) -> dict[str, Any]:
        """Move the parameters to the first point that passes the test; return the next state."""
        options, gamma = self.param_groups[0], search["gamma"]
        end, tries = start, 0
        if start.norm > 0 and bool(torch.isfinite(start.loss)) and start.norm < torch.inf:
            gradient = evaluate.scaled(start.gradient)
            curvature = make_curvature(options, evaluate, gradient, self._make_matrix, self._kept)
            end, gamma, tries = first_passing(evaluate, start, curvature, gamma, options)
        moved = end is not start
        found = {
            "step": search["step"] + 1,
            "gamma": min(
                max(2 * gamma if moved else gamma, options["gamma_min"]), options["gamma_max"]
            ),
            "accepted": moved,
            "evaluations": search["evaluations"] + tries,
            "gradient_norm": end.norm,
        }
        if options["full_batch"] and evaluate.in_own_loop:
            found |= {"loss": end.loss, "gradient": end.gradient}
        return found

    def _problem_of(self, closure: Any, problem: StepProblem | None) -> StepProblem | None:
        """Return the problem of a step, or refuse the step."""
        if closure is None:
            raise RuntimeError(
                "GradNormSmoothNewton evaluates the loss again at every try: step needs a closure, "
                "which float16's gradient scaler does not give; train in float32 or bfloat16."
            )
        problem = problem_of(closure, problem)
        if problem is None and self.param_groups[0]["curvature"] in WITH_PROBLEM:
            raise ValueError(
                f"The curvature {self.param_groups[0]['curvature']!r} differentiates the loss "
                "twice: give step a TargetClosure, or set curvature to 'zero' or "
                "'empirical_fisher'."
            )
        if any("initial_lr" in group for group in self.param_groups):
            raise RuntimeError(
                "GradNormSmoothNewton has no learning rate that a schedule could set: it finds its "
                "own step length; leave out the schedule."
            )
        return problem

    def _trained(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; a function that gives the curvature stays the one of this optimizer."""
        super().load_state_dict(state_dict)
        device = self.param_groups[0]["params"][0].device
        for name, values in [*self._kept.items()]:
            if isinstance(name, str):
                self._kept[name] = {
                    key: value.to(device, copy=True) if isinstance(value, Tensor) else value
                    for key, value in values.items()
                }


def _fresh(options: dict[str, Any]) -> dict[str, Any]:
    return {"step": 0, "gamma": float(options["gamma0"]), "evaluations": 0}


def _set_gradients(params: Sequence[Tensor], gradient: Tensor) -> None:
    pieces = gradient.split([p.numel() for p in params])
    for p, piece in zip(params, pieces, strict=True):
        p.grad = piece.view(p.shape).to(p.dtype, copy=True)


def _check(options: dict[str, Any], has_function: bool) -> None:
    """Refuse options that are out of range."""
    names = ("gamma0", "gamma_min", "gamma_max", "cg_tolerance")
    check_positive(**{name: options[name] for name in names})
    check_at_least(0, damping=options["damping"], eps=options["eps"])
    counts = ("rank", "max_search", "cg_iterations")
    check_at_least(1, **{name: options[name] for name in counts})
    if not has_function:
        check_one_of(KINDS, curvature=options["curvature"])
    if options.get("weight_decay"):
        raise ValueError(
            "GradNormSmoothNewton has no weight decay, got "
            f"{options['weight_decay']}: add the penalty to the loss."
        )
