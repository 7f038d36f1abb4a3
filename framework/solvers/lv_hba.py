"""LV-HBA: two-level problems whose lower level has constraints, by first-order gradients only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.distributed.averages import average_over_ranks
from framework.solvers.constraint_values import ConstraintValues, evaluate
from framework.solvers.step_sizes import step_size, warn_of_a_slow_copy, warn_of_unstable_steps
from framework.solvers.variables import (
    Variables,
    asking_for_gradients,
    check_alike,
    check_optimized,
    check_variables,
    copy_of,
    gradients_of,
    scalar,
    tensors_of,
    write,
)
from framework.utilities.checks import check_at_least, check_interval, check_positive

Loss = Callable[..., Tensor]
Projection = Callable[..., None]


class LVHBA:
    r"""Minimizes an upper loss over x and y, where y solves a constrained problem that x sets.

    .. math:: \min_{x, y} F(x, y) \quad\text{where } y \text{ minimizes } f(x, y)
        \text{ subject to } g(x, y) \le 0

    In a single loop: a copy :math:`\theta` of y and multipliers :math:`\lambda` follow the
    regularized saddle point

    .. math:: v(x, y, z) = \min_\theta \max_\lambda f(x, \theta) + \lambda^T g(x, \theta)
        + \frac{\|\theta - y\|^2}{2 \gamma_1} - \frac{\|\lambda - z\|^2}{2 \gamma_2}

    by a step each, after which x, y and z descend on :math:`F / c_k + f - v`, :math:`c_k =
    c_0 (k + 1)^p`, and are projected. There are no products with second derivatives, and the lower
    solution need not be unique. Without constraints v is the Moreau envelope of f, and this is the
    single-loop method of that name, which suits deep networks. y should start where f is small.

    ``upper``, ``lower`` and ``constraints`` are called as ``upper(x, y, *batch)``, with what
    ``step`` was given as the batch and the variables in the form they were given in. ``lower`` and
    ``constraints`` also see the copy in the place of y. Variables are changed in place. On several
    ranks gradients are averaged over them, and everything else is the same on each.

    Constraints are p values, at most 0 where they hold. Where a batch has some of them only, such
    as one for each sample, ``constraints`` returns their values (b,) and their numbers (b,), and
    ``num_constraints`` says how many there are; the multipliers of the others wait.

    Paper: Yao, Yu, Zeng and Zhang, *Constrained Bi-Level Optimization: Proximal Lagrangian Value
    function Approach and Hessian-free Algorithm*, ICLR 2024, arXiv:2401.16164, Algorithm 1. The
    official scripts (SUSTech-Optimization/LV-HBA) never step the upper variable nor z and let
    multipliers be negative; this follows the equations. Without constraints: Liu et al., ICML 2024,
    arXiv:2405.09927.

    Cost: three gradients of f, one of F and two of g per step, and the memory of a second y.
    Use it for: hyperparameters by the thousand, such as a weight for every sample.

    Args:
        upper: Function F of x, y and the batch, a scalar.
        lower: Function f of x, y and the batch, a scalar.
        constraints: Function g of x, y and the batch, (p,); None for none.
        x: Upper variables: a tensor, several, named ones, or a network.
        y: Lower variables, likewise.
        project_C: Function of x and y that projects both, in place, onto where all constraints
            hold, such as ``flat(AffineSet(A, b))``; None for no projection, where y may break
            them.
        project_Y: Function that projects lower variables, in place; None for no projection.
        alpha: Step size of x and y; not used with ``optimizer``.
        beta: Step size of z.
        eta: Step size of the copy and of the multipliers; at least ``alpha``, or y outruns its copy
            where f is flat.
        gamma1: Strength of the pull of y on the copy, as a divisor; inf for none.
        gamma2: Strength of the pull of z on the multipliers, as a divisor.
        c0: Divisor of the upper loss in the first step.
        p: Power by which the divisor grows with the steps, in [0, 1/2).
        r: Largest multiplier; it must exceed those of the solution.
        equality: Whether the constraints are equations, whose multipliers may be negative.
        num_constraints: Number p of all constraints, where a batch has some of them only.
        optimizer: Optimizer of x and y, all of them, that takes the directions as gradients.
        mu: Strong convexity of f in y, for the checks of step sizes.
        theta: Start of the copy, in the form of y; None for a copy of y.
        multipliers: Start of the multipliers (p,); None for zeros.
        z: Start of z (p,); None for zeros.

    Raises:
        ValueError: An argument out of its range, variables that cannot be changed or that are not
            the optimizer's, or (at a step) a loss that is no scalar.
        FloatingPointError: (at a step) a loss or a constraint is not finite.

    Example:
        >>> from framework.solvers import LVHBA
        >>> x, y = torch.zeros(()), torch.zeros(())
        >>> solver = LVHBA(
        ...     upper=lambda x, y: (y - 2) ** 2, lower=lambda x, y: (y - x) ** 2, x=x, y=y
        ... )
        >>> for _ in range(2000):
        ...     solver.step()
        >>> f"{float(x):.1f} {float(y):.1f}"
        '2.0 2.0'
    """

    def __init__(
        self,
        upper: Loss,
        lower: Loss,
        constraints: Callable[..., Any] | None = None,
        *,
        x: Variables,
        y: Variables,
        project_C: Projection | None = None,  # noqa: N803
        project_Y: Projection | None = None,  # noqa: N803
        alpha: float = 0.05,
        beta: float = 0.05,
        eta: float = 0.1,
        gamma1: float = 1.0,
        gamma2: float = 1.0,
        c0: float = 1.0,
        p: float = 0.3,
        r: float = 1e3,
        equality: bool = False,
        num_constraints: int | None = None,
        optimizer: Optimizer | None = None,
        mu: float = 0.0,
        theta: Variables | None = None,
        multipliers: Tensor | None = None,
        z: Tensor | None = None,
    ) -> None:
        check_positive(alpha=alpha, beta=beta, eta=eta, gamma2=gamma2, c0=c0, r=r)
        check_interval("[0, 0.5)", p=p)
        check_at_least(0, mu=mu)
        if not gamma1 > 0:
            raise ValueError(f"gamma1 must be positive, or inf for no pull, got {gamma1}.")
        self.upper = upper
        self.lower = lower
        self.constraints = constraints
        self.x = x
        self.y = y
        for variables in (x, y):
            check_variables(variables)
        self.theta = copy_of(y) if theta is None else theta
        check_variables(self.theta)
        check_alike("theta", self.theta, self.y)
        if optimizer is not None:
            check_optimized(optimizer, {"x": x, "y": y})
        self.project_C = project_C
        self.project_Y = project_Y
        self.alpha, self.beta, self.eta = alpha, beta, eta
        self.gamma1, self.gamma2 = gamma1, gamma2
        self.c0, self.p, self.r = c0, p, r
        self.mu = mu
        self.equality = equality
        self.num_constraints = num_constraints
        self.optimizer = optimizer
        self.multipliers = multipliers
        self.z = z
        self.k = 0

    @property
    def divisor(self) -> float:
        """What the upper loss is divided by in the next step, c_k."""
        return float(self.c0 * (self.k + 1) ** self.p)

    def step(self, *batch: Any) -> None:
        """Take one step; all gradients are those of one batch."""
        self.lower_step(*batch)
        self.upper_step(*batch)

    def lower_step(self, *batch: Any) -> None:
        """Move the copy and the multipliers, both by gradients where they are."""
        theta = tensors_of(self.theta)
        with asking_for_gradients(self.theta):
            value = scalar("lower", self.lower(self.x, self.theta, *batch))
            found = self._constraints(self.theta, batch)
            if self.k == 0:
                self._warn_of_step_sizes(found)
            if found is not None:
                assert self.multipliers is not None
                value = value + found.weighted(self.multipliers)
            *gradients, value = average_over_ranks([*gradients_of(value, theta), value.detach()])
        self._check_finite("lower loss at the copy", value)
        with torch.no_grad():
            for tensor, gradient, own in zip(theta, gradients, tensors_of(self.y), strict=True):
                tensor.sub_(self.eta * (gradient + (tensor - own) / self.gamma1))
            if self.project_Y is not None:
                self.project_Y(self.theta)
            if found is not None:
                self._move_multipliers(found)

    def upper_step(self, *batch: Any, values: tuple[Tensor, Tensor] | None = None) -> None:
        """Move x, y and z, by gradients at the copy and multipliers of ``lower_step``.

        Args:
            *batch: What the functions get beside the variables.
            values: F and f at x and y, where they are known.
        """
        x, y = tensors_of(self.x), tensors_of(self.y)
        with asking_for_gradients(self.x, self.y):
            if values is None:
                values = self.upper(self.x, self.y, *batch), self.lower(self.x, self.y, *batch)
            upper, lower = scalar("upper", values[0]), values[1]
            merit = upper / self.divisor + lower - self.lower(self.x, self.theta, *batch)
            found = self._constraints(self.theta, batch)
            if found is not None:
                assert self.multipliers is not None
                merit = merit - found.weighted(self.multipliers)
            *directions, merit = average_over_ranks(
                [*gradients_of(merit, [*x, *y]), merit.detach()]
            )
        self._check_finite("upper or lower loss", merit)
        with torch.no_grad():
            pulls = zip(y, tensors_of(self.theta), strict=True)
            directions[len(x) :] = [
                direction - (own - copy) / self.gamma1
                for direction, (own, copy) in zip(directions[len(x) :], pulls, strict=True)
            ]
        self._descend([*x, *y], directions)
        with torch.no_grad():
            if self.project_C is not None:
                self.project_C(self.x, self.y)
            if found is not None:
                self._move_z(found)
        self.k += 1

    def state_dict(self) -> dict[str, Any]:
        """Return copies of x, y, the copy ``theta``, the multipliers, z and the steps k.

        Raises:
            FloatingPointError: A variable is not finite.
        """
        groups = {"x": self.x, "y": self.y, "theta": self.theta}
        state: dict[str, Any] = {
            name: [tensor.detach().clone() for tensor in tensors_of(group)]
            for name, group in groups.items()
        }
        for tensor in [tensor for group in state.values() for tensor in group]:
            self._check_finite("solution", tensor, also_on_gpu=True)
        for name in ("multipliers", "z"):
            value = getattr(self, name)
            state[name] = None if value is None else value.detach().clone()
        return {**state, "k": self.k}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``.

        Raises:
            ValueError: It is of other variables.
        """
        for name in ("x", "y", "theta"):
            write(tensors_of(getattr(self, name)), state[name])
        device = tensors_of(self.y)[0].device
        for name in ("multipliers", "z"):
            value = state[name]
            if value is None or getattr(self, name) is None:
                setattr(self, name, None if value is None else value.to(device, copy=True))
            else:
                write([getattr(self, name)], [value])
        self.k = state["k"]

    # ---- parts of a step ------------------------------------------------------------------------

    def _constraints(self, y: Variables, batch: tuple[Any, ...]) -> ConstraintValues | None:
        if self.constraints is None:
            return None
        found = evaluate(self.constraints, self.x, y, batch, self.num_constraints)
        if self.multipliers is None or self.z is None:
            total = len(found.values) if self.num_constraints is None else self.num_constraints
            # half precision would lose small steps
            dtype = torch.promote_types(found.values.dtype, torch.float32)
            zeros = found.values.detach().new_zeros(total, dtype=dtype)
            self.multipliers = zeros if self.multipliers is None else self.multipliers
            self.z = zeros.clone() if self.z is None else self.z
            for name in ("multipliers", "z"):
                if (start := getattr(self, name)).shape != (total,):
                    raise ValueError(
                        f"{name} must start as ({total},), a number for each constraint, got "
                        f"{tuple(start.shape)}."
                    )
        return found

    def _warn_of_step_sizes(self, found: ConstraintValues | None) -> None:
        first, pull = tensors_of(self.y)[0], 1 / self.gamma1
        alpha = self.alpha if self.optimizer is None else step_size(self.optimizer, first)
        if alpha is not None:
            warn_of_a_slow_copy(alpha, self.eta, pull, self.mu)
        if found is not None:
            bound = 2 * min(self.mu + pull, 1 / self.gamma2)
            warn_of_unstable_steps(found.values, tensors_of(self.theta), self.eta, bound)

    def _move_multipliers(self, found: ConstraintValues) -> None:
        assert self.multipliers is not None
        assert self.z is not None
        values, there = found.everywhere(self.multipliers)
        pull = there * (self.multipliers - self.z) / self.gamma2
        self.multipliers.add_(self.eta * (values - pull)).clamp_(*self._range)

    def _move_z(self, found: ConstraintValues) -> None:
        assert self.multipliers is not None
        assert self.z is not None
        _, there = found.everywhere(self.multipliers)
        self.z.add_(self.beta * there * (self.multipliers - self.z) / self.gamma2)
        self.z.clamp_(*self._range)

    @property
    def _range(self) -> tuple[float, float]:
        return -self.r if self.equality else 0.0, self.r

    def _descend(self, tensors: list[Tensor], directions: list[Tensor]) -> None:
        if self.optimizer is None:
            with torch.no_grad():
                for tensor, direction in zip(tensors, directions, strict=True):
                    tensor.sub_(self.alpha * direction)
            return
        for tensor, direction in zip(tensors, directions, strict=True):
            tensor.grad = direction
        self.optimizer.step()
        for tensor in tensors:
            tensor.grad = None

    def _check_finite(self, name: str, value: Tensor, also_on_gpu: bool = False) -> None:
        # a GPU would have to be waited for in every step
        if value.device.type != "cpu" and not also_on_gpu:
            return
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"The {name} became NaN or infinite at step {self.k}: lower alpha "
                f"({self.alpha:g}) or eta ({self.eta:g}), or bound the variables by a projection."
            )
