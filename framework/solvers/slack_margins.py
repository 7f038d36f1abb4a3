"""The projection onto the margins of a support-vector machine with slack variables."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def project_on_slack_margins(
    weight: Tensor, slack: Tensor, inputs: Tensor, max_iter: int = 100
) -> tuple[Tensor, Tensor]:
    r"""Return the nearest point with :math:`A w + \xi \ge 1`, in float64.

    The slacks of the solution are :math:`\max(\xi_i, 1 - a_i^T w)`, so that what is left is a
    smooth, strongly convex problem in w, solved by Newton's method; a polyhedron of as many
    inequalities as rows would be far more work.

    Args:
        weight: Point w (D,), with the intercept.
        slack: Point xi (N,).
        inputs: Rows A (N, D), each times its label of -1 or 1.
        max_iter: Largest number of Newton steps; few are taken.

    Returns:
        The nearest w (D,) and xi (N,), of the dtypes they were given in.

    Example:
        >>> project_on_slack_margins(torch.zeros(1), torch.zeros(1), torch.ones(1, 1))
        (tensor([0.5000]), tensor([0.5000]))
    """
    start, given, rows = (tensor.double() for tensor in (weight, slack, inputs))

    def lack(w: Tensor) -> Tensor:
        return (1 - rows @ w - given).clamp(min=0)

    w, short = start.clone(), lack(start)
    value = short.square().sum()
    for _ in range(max_iter):
        gradient = w - start - rows.T @ short
        if float(gradient.norm()) <= 1e-12 * (1 + float(w.norm())):
            break
        active = rows[short > 0]
        eye = torch.eye(len(w), dtype=w.dtype, device=w.device)
        step = torch.linalg.solve(eye + active.T @ active, gradient)
        rate = 1.0
        for _ in range(30):
            moved = w - rate * step
            after = (moved - start).square().sum() + lack(moved).square().sum()
            if after <= value - 1e-4 * rate * 2 * (gradient @ step):
                break
            rate /= 2
        else:
            # no step is an improvement that float64 can tell
            break
        w, value = moved, after
        short = lack(w)
    return w.to(weight.dtype), torch.maximum(given, 1 - rows @ w).to(slack.dtype)
