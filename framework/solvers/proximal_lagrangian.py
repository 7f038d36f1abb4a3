"""The proximal Lagrangian value function of a constrained problem, to any accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.solvers.constraint_values import evaluate
from framework.utilities.checks import check_positive


class ProximalValue(NamedTuple):
    """The value function at a point, where its saddle point lies, and its gradients.

    Attributes:
        value: v, a scalar.
        theta: The saddle point's lower variables.
        multipliers: The saddle point's multipliers (p,).
        grad_x: Gradient of v in x.
        grad_y: Gradient of v in y.
        grad_z: Gradient of v in z (p,).
    """

    value: Tensor
    theta: Tensor
    multipliers: Tensor
    grad_x: Tensor
    grad_y: Tensor
    grad_z: Tensor


def proximal_lagrangian_value(
    lower: Callable[..., Tensor],
    constraints: Callable[..., Any] | None,
    x: Tensor,
    y: Tensor,
    z: Tensor | None = None,
    *,
    gamma1: float = 1.0,
    gamma2: float = 1.0,
    r: float = 1e3,
    equality: bool = False,
    eta: float = 0.1,
    tolerance: float = 1e-10,
    max_iter: int = 100_000,
) -> ProximalValue:
    r"""Return the regularized saddle value that ``LVHBA`` follows, by extragradient steps.

    .. math:: v(x, y, z) = \min_\theta \max_\lambda f(x, \theta) + \lambda^T g(x, \theta)
        + \frac{\|\theta - y\|^2}{2 \gamma_1} - \frac{\|\lambda - z\|^2}{2 \gamma_2}

    For f and g convex in the lower variables. Then f - v says how far y is from solving the lower
    problem; without constraints v is the Moreau envelope of f.

    Paper: Yao et al., ICLR 2024, arXiv:2401.16164, equation 3; the gradients are Danskin's.

    Args:
        lower: Function f of x and y, a scalar.
        constraints: Function g of x and y, (p,); None for none.
        x: Upper variables.
        y: Lower variables.
        z: Center of the multipliers (p,); None for zeros.
        gamma1: Divisor of the distance from y.
        gamma2: Divisor of the distance from z.
        r: Largest multiplier.
        equality: Whether multipliers may be negative.
        eta: Step size.
        tolerance: Largest change of a variable, over the step size, at which it ends.
        max_iter: Largest number of steps.

    Raises:
        RuntimeError: The steps did not settle.

    Example:
        >>> found = proximal_lagrangian_value(
        ...     lambda x, y: 0.5 * y**2 - x * y, None, torch.tensor(3.0), torch.tensor(0.0),
        ...     tolerance=1e-6,
        ... )
        >>> f"{float(found.theta):.4f} {float(found.value):.4f}"
        '1.5000 -2.2500'
    """
    check_positive(gamma1=gamma1, gamma2=gamma2, r=r, eta=eta, tolerance=tolerance)
    low = -r if equality else 0.0
    x, y = x.detach(), y.detach()

    def gradients(theta: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.requires_grad_()
        value, rise = lower(x, theta), -(multipliers - center) / gamma2
        if constraints is not None:
            found = evaluate(constraints, x, theta, (), None).values
            value, rise = value + multipliers @ found, rise + found.detach()
        (fall,) = torch.autograd.grad(value, theta)
        return fall + (theta.detach() - y) / gamma1, rise

    size = 0 if constraints is None else len(evaluate(constraints, x, y, (), None).values)
    center = y.new_zeros(size) if z is None else z.detach()
    theta, multipliers = y.clone(), center.clone()
    for _ in range(max_iter):
        fall, rise = gradients(theta.clone(), multipliers)
        ahead = theta - eta * fall, (multipliers + eta * rise).clamp(low, r)
        fall, rise = gradients(*ahead)
        after = theta - eta * fall, (multipliers + eta * rise).clamp(low, r)
        moves = torch.cat([(after[0] - theta).flatten(), after[1] - multipliers])
        theta, multipliers = after
        if float(moves.abs().max()) <= tolerance * eta:
            break
    else:
        raise RuntimeError(
            f"The saddle point was not reached in {max_iter:,} steps of eta={eta:g}: lower eta, or "
            "raise tolerance or max_iter."
        )
    x = x.clone().requires_grad_()
    value = lower(x, theta)
    if constraints is not None:
        value = value + multipliers @ evaluate(constraints, x, theta, (), None).values
    (grad_x,) = torch.autograd.grad(value, x)
    pull, lag = theta - y, multipliers - center
    value = value.detach() + pull.square().sum() / (2 * gamma1) - lag.square().sum() / (2 * gamma2)
    return ProximalValue(value, theta, multipliers, grad_x, -pull / gamma1, lag / gamma2)
