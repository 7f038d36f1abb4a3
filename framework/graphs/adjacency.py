"""Adjacency of a graph as a list of edges: symmetric, with self-loops, rows normalized."""

from __future__ import annotations

import torch
from torch import Tensor

Edges = tuple[Tensor, Tensor]
"""``edge_index`` (2, E) int64 and ``edge_weight`` (E,): entry (row, column) and value of each."""


def check_edges(edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None) -> None:
    """Raise ``ValueError`` unless edges join nodes that are there, by positive weights."""
    if edge_index.ndim != 2 or len(edge_index) != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            f"edge_index must be (2, E) int64, got {tuple(edge_index.shape)} {edge_index.dtype}."
        )
    outside = (edge_index < 0) | (edge_index >= num_nodes)
    if outside.any():
        edge = edge_index[:, outside.any(0)][:, 0].tolist()
        raise ValueError(
            f"An edge joins {edge[0]} and {edge[1]}, and nodes are 0 to {num_nodes - 1}."
        )
    if edge_weight is None:
        return
    if edge_weight.shape != edge_index.shape[1:] or not edge_weight.is_floating_point():
        raise ValueError(
            f"edge_weight must be ({edge_index.shape[1]},) of floating point, got "
            f"{tuple(edge_weight.shape)} {edge_weight.dtype}."
        )
    if not ((edge_weight > 0) & (edge_weight < torch.inf)).all():
        raise ValueError("Every edge_weight must be positive and finite.")


def symmetrized(edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None) -> Edges:
    """Return the undirected graph of edges that may be directed, repeated or self-loops.

    The weight of an edge is the largest of all edges between its two nodes, in either direction.
    Self-loops are left out.

    Args:
        edge_index: Edges (2, E) int64.
        num_nodes: Number of nodes N.
        edge_weight: Positive weights (E,); default 1 each.

    Returns:
        ``edge_index`` (2, E') with both directions of each edge, sorted by row, then column, and
        ``edge_weight`` (E',).

    Raises:
        ValueError: An edge to a node that is not there, another shape, or a weight that is not
            positive.

    Example:
        >>> symmetrized(torch.tensor([[0, 1, 2, 1], [1, 0, 2, 2]]), 3)
        (tensor([[0, 1, 1, 2],
                [1, 0, 2, 1]]), tensor([1., 1., 1., 1.]))
    """
    check_edges(edge_index, num_nodes, edge_weight)
    if edge_weight is None:
        edge_weight = torch.ones(edge_index.shape[1], device=edge_index.device)
    row, column = edge_index
    apart = row != column
    row, column, edge_weight = row[apart], column[apart], edge_weight[apart]
    key = torch.cat([row * num_nodes + column, column * num_nodes + row])
    entry, place = key.unique(return_inverse=True)
    weight = edge_weight.new_zeros(len(entry))
    weight.scatter_reduce_(0, place, torch.cat([edge_weight, edge_weight]), "amax")
    return torch.stack([entry // num_nodes, entry % num_nodes]), weight


def normalized_adjacency(
    edge_index: Tensor,
    num_nodes: int,
    edge_weight: Tensor | None = None,
    *,
    self_loops: bool = True,
) -> Edges:
    r"""Return :math:`D^{-1}(A + I)`: a step of the walk that stays or goes to a neighbor.

    A is the adjacency of the undirected graph, see ``symmetrized``, and D the diagonal of the sums
    of its rows with the self-loops, so that every row of the result sums to 1.

    Args:
        edge_index: Edges (2, E) int64.
        num_nodes: Number of nodes N.
        edge_weight: Positive weights (E,); default 1 each.
        self_loops: Whether I is added; without it the row of an isolated node is empty.

    Returns:
        ``edge_index`` (2, E') sorted by row, then column, and ``edge_weight`` (E',).

    Raises:
        ValueError: As for ``symmetrized``.

    Example:
        >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> sparse_matrix(*normalized_adjacency(path, 4), 4).to_dense()
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.3333, 0.3333, 0.3333, 0.0000],
                [0.0000, 0.3333, 0.3333, 0.3333],
                [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    edge_index, weight = symmetrized(edge_index, num_nodes, edge_weight)
    if self_loops:
        nodes = torch.arange(num_nodes, device=edge_index.device)
        edge_index = torch.cat([edge_index, nodes.expand(2, -1)], 1)
        weight = torch.cat([weight, weight.new_ones(num_nodes)])
        order = (edge_index[0] * num_nodes + edge_index[1]).argsort()
        edge_index, weight = edge_index[:, order], weight[order]
    degree = weight.new_zeros(num_nodes).index_add_(0, edge_index[0], weight)
    return edge_index, weight / degree[edge_index[0]]


def sparse_matrix(edge_index: Tensor, edge_weight: Tensor, num_nodes: int) -> Tensor:
    """Return edges that are sorted by row, then column, as a sparse matrix (N, N).

    Args:
        edge_index: Edges (2, E) int64, each once.
        edge_weight: Weights (E,).
        num_nodes: Number of nodes N.

    Returns:
        (N, N) in torch's coordinate format, coalesced.

    Example:
        >>> matrix = sparse_matrix(torch.tensor([[0, 1], [1, 0]]), torch.tensor([2.0, 3.0]), 2)
        >>> torch.sparse.mm(matrix, torch.tensor([[1.0], [10.0]])).tolist()
        [[20.0], [3.0]]
    """
    return torch.sparse_coo_tensor(
        edge_index, edge_weight, (num_nodes, num_nodes), is_coalesced=True, check_invariants=False
    )
