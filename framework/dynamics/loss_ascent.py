"""How much the loss rises by one step of a given length along its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from framework.distributed.averages import average_over_ranks
from framework.utilities.checks import check_positive


def loss_ascent(
    loss: Callable[[], Iterable[Tensor]], params: Sequence[Tensor], rho: float = 0.05
) -> Tensor:
    r"""Return :math:`L(\theta + \rho g / \lVert g \rVert) - L(\theta)`, the sharpness of SAM.

    Parameters and their ``grad`` are as they were afterwards, bit for bit. Collective: every rank
    gives the loss of its own rows, scaled so that the mean over ranks is the loss of all rows.

    Args:
        loss: Function that returns the parts of the loss, which are summed, one after the other.
        params: Parameters that are moved.
        rho: Length of the step.

    Raises:
        ValueError: ``rho`` is not positive.

    Example:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> loss_ascent(lambda: [0.5 * (w**2).sum()], [w], rho=0.1)
        tensor(0.5050)
    """
    check_positive(rho=rho)
    gradients = [torch.zeros_like(p) for p in params]
    # a rank may have no part
    before = torch.zeros((), dtype=torch.float64, device=params[0].device if params else None)
    with torch.enable_grad():
        for part in loss():
            before = before.to(part.device) + part.detach().double()
            found = torch.autograd.grad(part, params, materialize_grads=True, allow_unused=True)
            torch._foreach_add_(gradients, found)
    before, *gradients = average_over_ranks([before, *gradients])
    length = torch.stack([g.double().norm() for g in gradients]).norm()
    scale = float(rho / length) if length > 0 else 0.0
    kept = [p.detach().clone() for p in params]
    with torch.no_grad():
        try:
            for parameter, gradient in zip(params, gradients, strict=True):
                parameter.add_(gradient, alpha=scale)
            after = sum((part.detach().double() for part in loss()), torch.zeros_like(before))
        finally:
            for parameter, value in zip(params, kept, strict=True):
                parameter.copy_(value)
    (after,) = average_over_ranks([after])
    return (after - before).float()
