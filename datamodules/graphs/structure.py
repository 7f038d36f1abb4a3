"""Features of nodes that have none of their own, made of the edges."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.limits import check_size


def degree_features(edge_index: Tensor, num_nodes: int, width: int | None = None) -> Tensor:
    """Return a one at the number of neighbors of each node.

    Args:
        edge_index: Both directions of each edge, (2, E) int64.
        num_nodes: Number of nodes N.
        width: Number of columns F, the last one for all degrees from F - 1 on; default one more
            than the largest degree.

    Returns:
        (N, F) float32.

    Raises:
        FileTooLargeError: It would take more memory than the limit.
    """
    degree = torch.bincount(edge_index[0], minlength=num_nodes)
    width = int(degree.max()) + 1 if width is None else width
    check_size("The degrees", 4 * num_nodes * width, "a column for each of them")
    x = torch.zeros(num_nodes, width)
    return x.scatter_(1, degree.clamp(max=width - 1)[:, None], 1.0)


def adjacency_features(edge_index: Tensor, edge_weight: Tensor, num_nodes: int) -> Tensor:
    """Return the row of each node in the adjacency, with 1 for the node itself, (N, N) float32.

    Args:
        edge_index: Both directions of each edge, (2, E) int64.
        edge_weight: Weights (E,).
        num_nodes: Number of nodes N.

    Raises:
        FileTooLargeError: It would take more memory than the limit.
    """
    check_size(
        "structure='adjacency'",
        4 * num_nodes**2,
        f"a column for each of {num_nodes:,} nodes, where 'degree' takes less,",
    )
    x = torch.eye(num_nodes)
    x[edge_index[0], edge_index[1]] = edge_weight
    return x
