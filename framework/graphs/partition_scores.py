"""How well the clusters of a graph's nodes follow its edges, without any labels."""

from __future__ import annotations

from torch import Tensor


def modularity(
    edge_index: Tensor, edge_weight: Tensor, cluster: Tensor, num_clusters: int
) -> Tensor:
    """Return the share of edges inside clusters, less that expected of random edges.

    Random edges keep the degree of every node. 0 is the value of one cluster of all nodes and, in
    the mean, of random clusters; it lies below 1.

    Paper: Newman and Girvan, Finding and evaluating community structure in networks, 2004,
    arXiv:cond-mat/0308217.

    Args:
        edge_index: Edges (2, E) int64, both directions of each, without self-loops.
        edge_weight: Positive weights (E,).
        cluster: Cluster (N,) int64 of every node.
        num_clusters: Number K of clusters.

    Returns:
        A scalar; NaN without any edge.

    Example:
        >>> import torch
        >>> path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
        >>> modularity(path, torch.ones(6), torch.tensor([0, 0, 1, 1]), 2)
        tensor(0.1667)
    """
    inside, volume = _shares(edge_index, edge_weight, cluster, num_clusters)
    return inside.sum() - volume.square().sum()


def conductance(
    edge_index: Tensor, edge_weight: Tensor, cluster: Tensor, num_clusters: int
) -> Tensor:
    """Return the mean over clusters of the share of their edges that leave them.

    The share is that of the smaller side, the cluster or all other nodes. Clusters without an edge,
    or with all of them, are left out. Lower is better.

    Args:
        edge_index: Edges (2, E) int64, both directions of each, without self-loops.
        edge_weight: Positive weights (E,).
        cluster: Cluster (N,) int64 of every node.
        num_clusters: Number K of clusters.

    Returns:
        A scalar in [0, 1]; NaN where no cluster is left.

    Example:
        >>> import torch
        >>> path = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
        >>> conductance(path, torch.ones(6), torch.tensor([0, 0, 1, 1]), 2)
        tensor(0.3333)
    """
    inside, volume = _shares(edge_index, edge_weight, cluster, num_clusters)
    smaller = volume.minimum(1 - volume)
    counts = (smaller > 1e-6).to(volume.dtype)
    leaving = (volume - inside) / (smaller + (1 - counts))
    return (counts * leaving).sum() / counts.sum()


def _shares(
    edge_index: Tensor, edge_weight: Tensor, cluster: Tensor, num_clusters: int
) -> tuple[Tensor, Tensor]:
    """Return the share of the edges inside each cluster, and that which begins in it, (K,)."""
    start, end = cluster[edge_index[0]], cluster[edge_index[1]]
    zeros = edge_weight.new_zeros(num_clusters)
    volume = zeros.index_add(0, start, edge_weight)
    inside = zeros.index_add(0, start, edge_weight * (start == end))
    total = edge_weight.sum()
    return inside / total, volume / total
