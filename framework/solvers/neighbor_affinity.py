"""Which rows of a task are neighbors, for terms that ask neighbors to agree."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.utilities.checks import check_interval

BANDWIDTH_NEIGHBORS = 5
"""Divisor of the bandwidth, which the authors fixed whatever the number of neighbors is."""


def neighbor_affinity(x: Tensor, knn: int = 3, symmetrize: bool = False) -> Tensor:
    """Return whether a row's nearest neighbors include another row, (..., N, N) of 0 and 1.

    Row p holds 1 for its ``knn`` - 1 nearest other rows, so that it is no symmetric matrix: the
    ``knn`` neighbors of the paper's code begin with the row itself, which is then left out.

    Args:
        x: Features of one or more tasks (..., N, d).
        knn: Number of neighbors of a row, itself among them.
        symmetrize: Whether two rows are neighbors of each other where one is of the other.

    Raises:
        ValueError: ``knn`` is none of 1..N.

    Example:
        >>> neighbor_affinity(torch.tensor([[0.0], [1.0], [3.0]]), knn=2)
        tensor([[0., 1., 0.],
                [1., 0., 0.],
                [0., 1., 0.]])
    """
    check_interval(f"[1, {x.shape[-2]}]", knn=knn)
    distances = squared_distances(x, x)
    # of equal rows, and by rounding, another could come before the row itself
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    affinity = torch.zeros_like(distances)
    if knn > 1:
        nearest = distances.topk(knn - 1, dim=-1, largest=False).indices
        affinity.scatter_(-1, nearest, 1.0)
    return torch.maximum(affinity, affinity.transpose(-1, -2)) if symmetrize else affinity


def kernel_bandwidth(x: Tensor, affinity: Tensor) -> Tensor:
    """Return the squared bandwidth sum_pq w_pq |x_p - x_q|^2 / (5 N) of tasks, (...,).

    The 5 is the authors' and does not follow the number of neighbors.

    Args:
        x: Features (..., N, d).
        affinity: Affinities w (..., N, N).

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> kernel_bandwidth(x, neighbor_affinity(x, knn=2))
        tensor(0.4000)
    """
    total = (affinity * squared_distances(x, x)).sum((-2, -1))
    return total / (BANDWIDTH_NEIGHBORS * x.shape[-2])


def least_psd_shift(affinity: Tensor) -> float:
    """Return the least delta >= 0 for which W + delta I is positive semi-definite.

    Of a matrix that is not symmetric its symmetric part counts, and of several the largest delta.

    Args:
        affinity: Affinities W (..., N, N).

    Example:
        >>> round(least_psd_shift(torch.tensor([[0.0, 1.0], [1.0, 0.0]])), 6)
        1.0
    """
    symmetric = (affinity + affinity.transpose(-1, -2)).double() / 2
    return max(0.0, -float(torch.linalg.eigvalsh(symmetric).min()))
