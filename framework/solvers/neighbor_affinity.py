"""Which rows of a task are neighbors, for terms that ask neighbors to agree."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.utilities.checks import check_interval

BANDWIDTH_NEIGHBORS = 5
"""Divisor of the bandwidth, which the authors fixed whatever the number of neighbors is."""
FEW = 8
"""Neighbors up to which each is looked for on its own, as a partial sort takes longer."""


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
    distances = squared_distances(x, x)
    affinity = torch.zeros_like(distances).scatter_(-1, nearest_rows(distances, knn), 1.0)
    return torch.maximum(affinity, affinity.mT) if symmetrize else affinity


def nearest_rows(distances: Tensor, knn: int) -> Tensor:
    """Return the ``knn`` - 1 nearest other rows of each row, the nearest first, (..., N, M) int64.

    Args:
        distances: Squared distances of all rows (..., N, N).
        knn: Number of neighbors of a row, itself among them.

    Raises:
        ValueError: ``knn`` is none of 1..N.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> nearest_rows(squared_distances(x, x), knn=2).flatten()
        tensor([1, 0, 1])
    """
    check_interval(f"[1, {distances.shape[-1]}]", knn=knn)
    distances = distances.clone()
    # of equal rows, and by rounding, another could come before the row itself
    distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    if knn - 1 > FEW:
        return distances.topk(knn - 1, dim=-1, largest=False).indices
    found = [torch.empty(*distances.shape[:-1], 0, dtype=torch.int64, device=distances.device)]
    for _ in range(knn - 1):
        found.append(distances.min(-1, keepdim=True).indices)
        distances.scatter_(-1, found[-1], torch.inf)
    return torch.cat(found, dim=-1)


def neighbor_sums(affinity: Tensor, z: Tensor) -> Tensor:
    """Return the sums of assignments over neighbors, (W Z)^T, (T, K, N).

    Args:
        affinity: Affinities W (T, N, N), or (T, N, M) int64, the numbers of each row's neighbors,
            all of affinity 1.
        z: Assignments (T, K, N).

    Example:
        >>> z = torch.tensor([[[0.1, 0.2, 0.3]]])
        >>> neighbor_sums(torch.tensor([[[1, 2], [0, 2], [0, 1]]]), z)
        tensor([[[0.5000, 0.4000, 0.3000]]])
    """
    if affinity.is_floating_point():
        return z @ affinity.mT
    rows = affinity.mT.flatten(1)[:, None].expand(-1, z.shape[1], -1)
    return z.gather(2, rows).unflatten(2, (affinity.shape[2], affinity.shape[1])).sum(2)


def kernel_bandwidth(distances: Tensor, affinity: Tensor) -> Tensor:
    """Return the squared bandwidth sum_pq w_pq |x_p - x_q|^2 / (5 N) of tasks, (...,).

    The 5 is the authors' and does not follow the number of neighbors.

    Args:
        distances: Squared distances of all rows (..., N, N).
        affinity: Affinities w (..., N, N), or the numbers of neighbors (..., N, M) int64.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> kernel_bandwidth(squared_distances(x, x), neighbor_affinity(x, knn=2))
        tensor(0.4000)
    """
    listed = not affinity.is_floating_point()
    terms = distances.gather(-1, affinity) if listed else affinity * distances
    return terms.sum((-2, -1)) / (BANDWIDTH_NEIGHBORS * distances.shape[-2])


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
