"""Step sizes at which the variables of LV-HBA would spiral outward."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from framework.distributed.collectives import rank


def jacobian_norm(values: Tensor, tensors: Sequence[Tensor], iterations: int = 30) -> float:
    """Return the spectral norm of the derivative of values (p,) in tensors, by power iteration.

    Args:
        values: Differentiable function of the tensors.
        tensors: What it is derived in.
        iterations: Number of products with the derivative and its transpose.
    """
    weights = torch.zeros_like(values, requires_grad=True)
    pulled = torch.autograd.grad(
        values, tensors, weights, create_graph=True, retain_graph=True, allow_unused=True
    )
    used = [(t, row) for t, row in zip(tensors, pulled, strict=True) if row is not None]
    used = [(t, row) for t, row in used if row.requires_grad]
    if not used:
        return 0.0
    places, rows = [t for t, _ in used], [row for _, row in used]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t) for t in places]
    size = 0.0
    for _ in range(iterations):
        length = torch.stack([d.square().sum() for d in direction]).sum().sqrt()
        (pushed,) = torch.autograd.grad(rows, weights, [d / length for d in direction], True)
        size = float(pushed.norm())
        if size == 0:
            break
        direction = list(torch.autograd.grad(values, places, pushed.detach(), retain_graph=True))
    return size


def warn_of_unstable_steps(
    values: Tensor, tensors: Sequence[Tensor], eta: float, bound: float
) -> None:
    """Warn where steps on variables and multipliers together would spiral outward.

    Args:
        values: Constraints (p,) as a function of the tensors.
        tensors: Variables that descend while the multipliers ascend.
        eta: Step size of both.
        bound: What ``eta`` times the squared norm of the derivative must lie below.
    """
    square = jacobian_norm(values, tensors) ** 2
    if eta * square >= bound and rank() == 0:
        warnings.warn(
            f"eta={eta:g} times the squared norm {square:.3g} of the constraints' gradient is "
            f"{eta * square:.3g}, which must lie below {bound:.3g} for the multipliers to settle: "
            "divide each constraint by the norm of its gradient, or lower eta.",
            stacklevel=5,
        )


def step_size(optimizer: Optimizer, tensor: Tensor) -> float | None:
    """Return how far an optimizer moves a tensor along a lasting gradient of 1; None if unknown.

    That is known of SGD alone, whose momentum adds up steps.

    Args:
        optimizer: Optimizer of the tensor.
        tensor: Tensor that is moved.
    """
    if not isinstance(optimizer, SGD):
        return None
    for group in optimizer.param_groups:
        if any(tensor is own for own in group["params"]):
            rate = max(group["lr"], group.get("initial_lr", 0.0))
            momentum = group["momentum"]
            added = (1 - group["dampening"]) / (1 - momentum) if momentum else 1.0
            return float(rate * added)
    return None


def warn_of_a_slow_copy(alpha: float, eta: float, pull: float, mu: float) -> None:
    """Warn where y is pushed away from its copy faster than that follows.

    Where the lower loss has a curvature of ``mu``, the two part if alpha (pull - mu) exceeds
    eta (pull + mu).

    Args:
        alpha: Step size of y.
        eta: Step size of the copy.
        pull: Strength of the pull between both, 1 / gamma1.
        mu: Strong convexity of the lower loss.
    """
    # steps of one size are allowed, however they are rounded
    if alpha * (pull - mu) > (1 + 1e-6) * eta * (pull + mu) and rank() == 0:
        warnings.warn(
            f"The step size of y, {alpha:g}, is above eta={eta:g}, that of its copy, which y "
            "outruns where the lower loss is flat: raise eta, or lower the learning rate.",
            stacklevel=5,
        )
