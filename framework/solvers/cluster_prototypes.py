"""Prototypes of clusters: the mean, the mode or one of the members, and what rows cost at them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from framework.solvers.task_batches import asks_after, is_worth_reducing

PrototypeKind = Literal["mean", "mode", "medoid"]
MODE_TOL = 1e-5
"""Change of a mode, relative to its largest entry, at which its search ends."""
MODE_ITERATIONS = 1000
"""Most iterations of the search of a mode."""


class CenteredRows(NamedTuple):
    """Features of tasks about their means, as a common offset would cost digits.

    Args:
        x: Features about the mean (T, N, d).
        squares: Their squared lengths (T, N).
        origin: The mean of each task's features (T, 1, d).
    """

    x: Tensor
    squares: Tensor
    origin: Tensor


def centered_rows(x: Tensor) -> CenteredRows:
    """Return features (T, N, d) about their means.

    Example:
        >>> centered_rows(torch.tensor([[[0.0], [2.0]]])).squares
        tensor([[1., 1.]])
    """
    origin = x.mean(-2, keepdim=True)
    x = x - origin
    return CenteredRows(x, x.square().sum(-1), origin)


def prototype_cost(
    rows: CenteredRows, prototypes: Tensor, kind: PrototypeKind, variance: Tensor
) -> Tensor:
    """Return what it costs to assign a row to a prototype, (T, N, K).

    Args:
        rows: Features of tasks.
        prototypes: Prototypes (T, K, d) about the same origin.
        kind: Kind ``mean``, whose cost is the squared distance; of ``mode`` and ``medoid`` it is
            -exp(-|x - m|^2 / (2 s^2)).
        variance: Squared bandwidth s^2 of each task (T,).

    Example:
        >>> rows = centered_rows(torch.tensor([[[0.0], [2.0]]]))
        >>> prototype_cost(rows, rows.x[:, :1], "mode", torch.tensor([2.0]))
        tensor([[[-1.0000],
                 [-0.3679]]])
    """
    both = rows.squares.unsqueeze(-2) + prototypes.square().sum(-1, keepdim=True)
    # classes before rows, as solvers need them
    distances = torch.baddbmm(both, prototypes, rows.x.mT, alpha=-2).clamp_min_(0).mT
    return distances if kind == "mean" else -(-distances * _rate(variance)).exp()


def cluster_means(x: Tensor, member: Tensor) -> Tensor:
    """Return the mean of each cluster's rows, (T, K, d).

    Args:
        x: Features (T, N, d).
        member: Weight of every row in every cluster (T, N, K), each cluster's sum above 0.

    Example:
        >>> cluster_means(torch.tensor([[[0.0], [2.0]]]), torch.ones(1, 2, 1))
        tensor([[[1.]]])
    """
    return member.transpose(-1, -2) @ x / member.sum(-2).unsqueeze(-1)


def cluster_modes(rows: CenteredRows, member: Tensor, start: Tensor, variance: Tensor) -> Tensor:
    """Return the mode of each cluster's rows that mean-shift comes to, (T, K, d).

    A mode moves to sum_p e_p x_p / sum_p e_p with e_p = exp(-|x_p - m|^2 / (2 s^2)) over the rows p
    of its cluster, until no entry moves by more than 1e-5 of its largest one, at most 1,000 times.

    Args:
        rows: Features of tasks.
        member: Whether a row is of a cluster (T, N, K) bool.
        start: Where the search of each mode begins (T, K, d), about the same origin as the result.
        variance: Squared bandwidth s^2 of each task (T,).

    Example:
        >>> rows = centered_rows(torch.tensor([[[0.0], [0.2], [9.0]]]))
        >>> member = torch.ones(1, 3, 1, dtype=torch.bool)
        >>> modes = cluster_modes(rows, member, 1 - rows.origin, torch.tensor([0.5]))
        >>> modes + rows.origin
        tensor([[[0.1000]]])
    """
    x, squares, origin = rows
    others = torch.where(member.mT, squares.unsqueeze(-2), torch.inf)
    rate = _rate(variance)
    modes, tasks = start, torch.arange(len(x), device=x.device)
    result = torch.empty_like(modes)
    for iteration in range(MODE_ITERATIONS):
        # the square of the mode itself is the same for all rows
        exponent = torch.baddbmm(others, modes, x.mT, beta=-1, alpha=2) * rate
        new = exponent.softmax(-1) @ x
        change, size = (new - modes).abs().amax(-1), (modes + origin).abs().amax(-1)
        moving = change > MODE_TOL * size
        # a mode that has come to rest stays, whatever the others of its task do
        modes = torch.where(moving.unsqueeze(-1), new, modes)
        if not asks_after(iteration, x.device):
            continue
        going = moving.any(-1)
        left = int(going.sum())
        if not left:
            break
        if is_worth_reducing(left, going):
            result[tasks] = modes
            x, others, rate, origin, modes, tasks = (
                v[going] for v in (x, others, rate, origin, modes, tasks)
            )
    result[tasks] = modes
    return result


def cluster_medoids(x: Tensor, assignment: Tensor) -> Tensor:
    """Return the row that is assigned to each cluster most, (T, K, d).

    Args:
        x: Features (T, N, d).
        assignment: Assignments (T, N, K), without the constraints on supports, which would make a
            support the medoid always.

    Example:
        >>> cluster_medoids(torch.tensor([[[5.0], [7.0]]]), torch.tensor([[[0.2], [0.8]]]))
        tensor([[[7.]]])
    """
    row = assignment.argmax(-2)
    return x.gather(-2, row.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def _rate(variance: Tensor) -> Tensor:
    """Return 1 / (2 s^2), (T, 1, 1)."""
    # equal rows have no bandwidth
    tiny = torch.finfo(variance.dtype).tiny
    return (0.5 / variance.clamp(min=tiny**0.5))[:, None, None]
