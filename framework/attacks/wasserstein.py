"""Inputs moved at a price: ascent of a loss minus a cost of transport, as in Wasserstein balls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least, check_one_of, check_positive

Cost = Literal["l2", "l2sq", "half_l2sq"]
"""Cost of moving a row by v: its length, the square of that, or half the square."""
SQUARED: dict[str, float] = {"l2sq": 2.0, "half_l2sq": 1.0}
"""Second derivative along a line of the costs that have one."""


def transport_cost(distance: Tensor, cost: Cost) -> Tensor:
    r"""Return the cost of moving by a distance :math:`r \ge 0`: r, :math:`r^2` or :math:`r^2 / 2`.

    Args:
        distance: Distances r, of any shape.
        cost: Cost: ``'l2'``, ``'l2sq'`` or ``'half_l2sq'``.

    Example:
        >>> [float(transport_cost(torch.tensor(3.0), cost)) for cost in ("l2", "l2sq", "half_l2sq")]
        [3.0, 9.0, 4.5]
    """
    return distance if cost == "l2" else distance.square() * (SQUARED[cost] / 2)


def penalized_ascent(
    losses: Callable[[Tensor], Tensor],
    inputs: Tensor,
    gamma: float | Tensor,
    *,
    steps: int = 15,
    step_size: float | None = None,
    cost: Cost = "half_l2sq",
) -> Tensor:
    r"""Return inputs z at which :math:`\ell(z) - \gamma c(z, x)` is large, starting at the x given.

    It takes ``steps`` steps :math:`z \leftarrow z + a\,(\nabla \ell(z) - \gamma \nabla_z c(z, x))`
    and keeps, for every row, the z with the largest value of all that it saw, x among them; so no
    row ends lower than it began. The problem is concave, and the ascent converges, where
    :math:`\gamma` times the second derivative of c (1 for ``'half_l2sq'``, 2 for ``'l2sq'``)
    exceeds that of the loss.

    Paper: Sinha, Namkoong, Duchi, *Certifying Some Distributional Robustness with Principled
    Adversarial Training*, ICLR 2018, arXiv:1710.10571, algorithm 1, which returns the last iterate.

    Args:
        losses: Function from inputs to the loss of every row (B,); see ``under_attack`` for the
            mode in which a network should stand.
        inputs: (B, ...) float, where B may be 0; they are not changed.
        gamma: Price of transport, positive; a number, or one per row (B,).
        steps: Number of steps; 0 leaves the inputs.
        step_size: Size a of a step; default :math:`1 / (2 \gamma)`, or half of that for ``'l2sq'``.
        cost: Cost of transport, ``'half_l2sq'`` or ``'l2sq'``.

    Returns:
        (B, ...), without gradient.

    Raises:
        ValueError: an argument out of its range, or the cost ``'l2'``, for which the supremum may
            be infinite.

    Example:
        >>> from framework.attacks.wasserstein import penalized_ascent
        >>> x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> penalized_ascent(lambda z: z.sum(1), x, gamma=2.0, steps=30)
        tensor([[1.5000, 0.5000]], dtype=torch.float64)
    """
    check_at_least(0, steps=steps)
    check_positive(step_size=step_size)
    check_one_of(get_args(Cost), cost=cost)
    if cost == "l2":
        raise ValueError(
            "The cost 'l2' has no ascent, as a loss may outgrow it without bound: use 'l2sq' or "
            "'half_l2sq', or the closed form of a linear model."
        )
    if not steps or not inputs.numel():
        return inputs.detach()
    start = inputs.detach().clone()  # a tensor of inference mode could take part in no gradient
    price = torch.as_tensor(gamma, dtype=start.dtype, device=start.device).expand(len(start))
    curvature = (SQUARED[cost] * price).view(-1, *[1] * (start.ndim - 1))
    size = 1 / (2 * curvature) if step_size is None else step_size

    def value(z: Tensor, values: Tensor) -> Tensor:
        return values.detach() - price * moved_cost(z, start, cost)

    z, best = start, start
    highest = torch.full_like(price, -torch.inf)
    for _ in range(steps):
        z = z.detach().requires_grad_()
        values = losses(z)
        (gradient,) = torch.autograd.grad(values.sum(), z)
        z = z.detach()
        best, highest = _better(best, highest, z, value(z, values))
        z = z + size * (gradient - curvature * (z - start))
    with torch.no_grad():
        return _better(best, highest, z, value(z, losses(z)))[0]


def moved_cost(moved: Tensor, inputs: Tensor, cost: Cost) -> Tensor:
    """Return the cost of transport of every row, (B,).

    Args:
        moved: (B, ...), the inputs z.
        inputs: (B, ...), the inputs x.
        cost: Cost of transport.
    """
    square = (moved - inputs).flatten(1).square().sum(1)
    return square.sqrt() if cost == "l2" else square * (SQUARED[cost] / 2)


def _better(best: Tensor, highest: Tensor, z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    higher = value > highest  # false of NaN
    return (
        torch.where(higher.view(-1, *[1] * (z.ndim - 1)), z, best),
        torch.where(higher, value, highest),
    )
