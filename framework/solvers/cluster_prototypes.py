"""Prototypes of clusters: the mean, the mode or one of the members, and what rows cost at them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from framework.ops.kernels import squared_distances

PrototypeKind = Literal["mean", "mode", "medoid"]
MODE_TOL = 1e-5
"""Change of a mode, relative to its largest entry, at which its search ends."""
MODE_ITERATIONS = 1000
"""Most iterations of the search of a mode."""


def prototype_cost(x: Tensor, prototypes: Tensor, kind: PrototypeKind, variance: Tensor) -> Tensor:
    """Return what it costs to assign a row to a prototype, (T, N, K).

    Args:
        x: Features (T, N, d).
        prototypes: Prototypes (T, K, d).
        kind: Kind ``mean``, whose cost is the squared distance; of ``mode`` and ``medoid`` it is
            -exp(-|x - m|^2 / (2 s^2)).
        variance: Squared bandwidth s^2 of each task (T,).

    Example:
        >>> x = torch.tensor([[[0.0], [2.0]]])
        >>> prototype_cost(x, x[:, :1], "mode", torch.tensor([2.0]))
        tensor([[[-1.0000],
                 [-0.3679]]])
    """
    distances = squared_distances(x, prototypes)
    return distances if kind == "mean" else -_kernel_exponent(distances, variance).exp()


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


def cluster_modes(x: Tensor, member: Tensor, start: Tensor, variance: Tensor) -> Tensor:
    """Return the mode of each cluster's rows that mean-shift comes to, (T, K, d).

    A mode moves to sum_p e_p x_p / sum_p e_p with e_p = exp(-|x_p - m|^2 / (2 s^2)) over the rows p
    of its cluster, until no entry moves by more than 1e-5 of its largest one, at most 1,000 times.

    Args:
        x: Features (T, N, d).
        member: Whether a row is of a cluster (T, N, K) bool.
        start: Where the search of each mode begins (T, K, d).
        variance: Squared bandwidth s^2 of each task (T,).

    Example:
        >>> x = torch.tensor([[[0.0], [0.2], [9.0]]])
        >>> member = torch.ones(1, 3, 1, dtype=torch.bool)
        >>> cluster_modes(x, member, torch.tensor([[[1.0]]]), torch.tensor([0.5]))
        tensor([[[0.1000]]])
    """
    modes = start.clone()
    active = torch.arange(len(x), device=x.device)
    for _ in range(MODE_ITERATIONS):
        if not len(active):
            break
        old = modes[active]
        exponent = _kernel_exponent(squared_distances(x[active], old), variance[active])
        weight = exponent.masked_fill(~member[active], -torch.inf).softmax(-2)
        new = weight.transpose(-1, -2) @ x[active]
        moving = (new - old).abs().amax(-1) > MODE_TOL * old.abs().amax(-1)
        # a mode that has come to rest stays, whatever the others of its task do
        modes[active] = torch.where(moving.unsqueeze(-1), new, old)
        active = active[moving.any(-1)]
    return modes


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


def _kernel_exponent(distances: Tensor, variance: Tensor) -> Tensor:
    # equal rows have no bandwidth
    tiny = torch.finfo(distances.dtype).tiny
    return -distances / (2 * variance.clamp(min=tiny**0.5))[:, None, None]
