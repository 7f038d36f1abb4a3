"""SSO: several cheap steps on a surrogate of the loss for each gradient of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.collectives import all_reduce_sum, world_size
from framework.optim.inner_optimizers import INNER, make_inner, minimize
from framework.optim.momentum_optimizer import has_gradient
from framework.optim.shared_options import check_shared
from framework.optim.target_closure import StepProblem, problem_of
from framework.optim.target_schedules import check_target_schedule, target_factor
from framework.optim.target_surrogate import TargetSurrogate
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.precision import at_least_float32

_STATE = "sso"


class SSO(Optimizer):
    r"""Target-based surrogate optimization, for losses whose gradient is dear and models are cheap.

    A step takes one gradient g of the loss with respect to the model's outputs f, z where the step
    begins, and then ``inner_steps`` steps on the surrogate

    .. math:: \langle g, f(\theta) - z \rangle + \frac{1}{2 \eta} \lVert f(\theta) - z \rVert^2
        + \frac{\lambda}{2} \lVert \theta \rVert^2

    that ask for outputs of the model but not for the loss. With :math:`\eta \le 1 / L`, of a loss
    that is L-smooth in the outputs, it bounds the loss from above. One inner step of gradient
    descent is a step of SGD.

    ``step`` takes a ``TargetClosure``, or any closure and a ``StepProblem``. All ranks step alike,
    on means over ranks. The model must predict the same at equal parameters, and the loss must be a
    function of the outputs of the problem. Needs float32 or bfloat16: fp16's gradient scaler steps
    without a closure.

    Paper: Lavington, Vaswani, Babanezhad, Schmidt, Le Roux, *Target-based Surrogates for Stochastic
    Optimization*, ICML 2023, arXiv:2302.02607. The official code has no 1/2 in its penalty and a
    mean loss's gradient beside a penalty that is no mean: its step size is 2 B times ``target_lr``
    for a mean over B rows, and 2 times for a sum. The paper's form was followed.

    Args:
        params: Parameters or parameter groups.
        target_lr: Step size eta in target space, of each row's own loss: 1 / L is 1 for half a
            squared error, 4 for the logistic loss, at least 2 for cross-entropy.
        lr: Learning rate of the inner optimizer; for a linear model and ``gd`` at most
            ``target_lr`` times B over the square of the inputs' largest singular value. It follows
            the schedule of ``target_lr`` with ``gd`` and ``armijo``.
        inner: Inner optimizer, new at each step: ``gd``, ``armijo``, ``adam`` or ``lbfgs``.
        inner_steps: Largest number of inner steps.
        inner_kwargs: Further arguments of the inner optimizer.
        schedule: Schedule of ``target_lr``: ``constant``, ``inverse_sqrt``, ``exponential`` or
            ``adagrad``.
        total_steps: Number of steps after which ``exponential`` has divided by that number.
        reduction: Reduction of the loss over rows: ``mean`` or ``sum``.
        weight_decay: Weight decay, a part of the loss that the surrogate keeps exactly.
        tolerance: Norm of the surrogate's gradient at which the inner steps stop, 1e-6 in the
            official code; with 0 they never do, and a GPU is never waited for.
        maximize: Whether to ascend rather than descend.

    Raises:
        ValueError: an argument is out of range, or differs between groups where it must not.
        RuntimeError: no closure or no problem, or sparse gradients.

    Example:
        >>> from framework.optim import TargetClosure
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> x, y = torch.tensor([[1.0, 0.0], [0.5, 1.0]]), torch.tensor([1.0, -1.0])
        >>> optimizer = SSO([weight], target_lr=0.5, lr=0.25, inner_steps=3, reduction="sum")
        >>> closure = TargetClosure(
        ...     [weight], lambda: x @ weight, lambda z: torch.nn.functional.softplus(-y * z).sum()
        ... )
        >>> loss = optimizer.step(closure)
        >>> weight.detach()
        tensor([ 0.1572, -0.2559])
    """

    needs_closure: ClassVar[bool] = True
    needs_problem: ClassVar[bool] = True
    couples_entries: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        target_lr: float = 1.0,
        lr: float = 0.1,
        inner: Literal["gd", "armijo", "adam", "lbfgs"] = "gd",
        inner_steps: int = 10,
        inner_kwargs: dict[str, bool | int | float | list[float]] | None = None,
        schedule: Literal["constant", "inverse_sqrt", "exponential", "adagrad"] = "constant",
        total_steps: int | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        weight_decay: float = 0.0,
        tolerance: float = 0.0,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "target_lr": target_lr,
            "lr": lr,
            "inner": inner,
            "inner_steps": inner_steps,
            "inner_kwargs": dict(inner_kwargs or {}),
            "schedule": schedule,
            "total_steps": total_steps,
            "reduction": reduction,
            "weight_decay": weight_decay,
            "tolerance": tolerance,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose options take the place of the defaults."""
        options = self.defaults | param_group
        _check(options)
        own = () if options["inner"] == "lbfgs" else ("lr",)
        shared = [name for name in self.defaults if name not in ("weight_decay", *own)]
        check_shared([*self.param_groups, options], shared)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Tensor | float] | None = None,
        problem: StepProblem | None = None,
    ) -> Tensor | float:
        """Take one step and return the loss before it.

        Args:
            closure: Function that sets the gradients and returns the loss; it is called once.
            problem: Outputs behind the loss; None where the closure is a ``StepProblem``.
        """
        if closure is None:
            raise RuntimeError("SSO.step needs a closure; fp16's gradient scaler cannot drive it.")
        problem = problem_of(closure, problem)
        if problem is None:
            raise RuntimeError(
                "SSO.step needs the outputs behind the loss: make the closure a TargetClosure, or "
                "hand over problem; a LightningModule of your own does so in manual optimization."
            )
        with torch.enable_grad():
            loss = closure()
        groups = [
            group | {"params": [p for p in group["params"] if has_gradient(p)]}
            for group in self.param_groups
        ]
        groups = [group for group in groups if group["params"]]
        moved = [p for group in groups for p in group["params"]]
        if any(p.grad.is_sparse for p in moved):
            raise RuntimeError("SSO does not support sparse gradients.")
        factor, rows = self._advance(problem)
        if moved:
            options = self.param_groups[0]
            # the mean over ranks is that of one process
            weight = world_size() / (options["target_lr"] * factor * rows)
            decays = [group["weight_decay"] for group in groups for _ in group["params"]]
            surrogate = TargetSurrogate(problem, moved, decays, weight, options["maximize"])
            gradients = [p.grad for p in moved]
            try:
                minimize(surrogate, groups, factor)
            finally:
                for parameter, gradient in zip(moved, gradients, strict=True):
                    parameter.grad = gradient
        return loss

    def _advance(self, problem: StepProblem) -> tuple[float, float | Tensor]:
        """Count the step; return the schedule's factor and what the penalty is divided by."""
        options = self.param_groups[0]
        state = self.state.get(_STATE) or {"step": 0, "squares": 0.0}  # type: ignore[call-overload]
        mean, squares = options["reduction"] == "mean", state["squares"]
        rows = global_rows(problem) if mean else 1
        if options["schedule"] == "adagrad":
            squares += float(rows) * square_of_gradient(problem)
        factor = target_factor(options["schedule"], state["step"], options["total_steps"], squares)
        state = {"step": state["step"] + 1, "squares": squares}
        self.state[_STATE] = state  # type: ignore[index]
        return factor, rows


def global_rows(problem: StepProblem) -> float | Tensor:
    """Return the rows of a step over all ranks, at least 1; with several ranks as a tensor."""
    ranks, rows = world_size(), problem.rows
    if ranks == 1:
        return max(rows, 1)
    like = at_least_float32(problem.targets[0].value)
    # a tensor, so that no GPU has to be waited for
    return all_reduce_sum(like.new_full((), rows)).clamp_min(1)


def square_of_gradient(problem: StepProblem) -> float:
    """Return the square of the norm of the loss's gradient with respect to the global outputs."""
    norms = [torch.linalg.vector_norm(at_least_float32(g)).square() for _, g in problem.targets]
    # a rank's gradient is that of its share times the number of ranks
    return float(all_reduce_sum(torch.stack(norms).sum())) / world_size() ** 2


def _check(options: dict[str, Any]) -> None:
    """Refuse options that are out of range."""
    check_positive(target_lr=options["target_lr"])
    check_at_least(
        0,
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        tolerance=options["tolerance"],
    )
    check_at_least(1, inner_steps=options["inner_steps"])
    check_one_of(INNER, inner=options["inner"])
    check_one_of(("mean", "sum"), reduction=options["reduction"])
    check_target_schedule(options["schedule"], options["total_steps"])
    for name in ("lr", "weight_decay", "maximize"):
        if name in options["inner_kwargs"]:
            raise ValueError(f"{name} is an argument of SSO, not one of inner_kwargs.")
    probe = {"params": [torch.zeros(1, requires_grad=True)], "lr": options["lr"]}
    make_inner(options["inner"], [probe], options)
