"""Places of a graph's nodes in the plane, by the edges alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.graphs.adjacency import symmetrized

DENSE_NODES = 500
"""Nodes up to which all eigenvectors are computed, which is exact and quick for few."""


def spectral_layout(
    edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None
) -> Tensor:
    r"""Return nodes in the plane, those with many common paths near one another.

    They are the eigenvectors of the second and third largest eigenvalue of
    :math:`D_\tau^{-1} (A + \tfrac{\tau}{N} 1 1^\top)`, where tau is the mean degree and
    :math:`D_\tau` the sums of the rows. Without tau they would single out a few nodes that hang on
    the others by one edge.

    Paper: Zhang and Rohe, Understanding Regularized Spectral Clustering via Graph Conductance,
    NeurIPS 2018, arXiv:1806.01468.

    Args:
        edge_index: Edges (2, E) int64.
        num_nodes: Number of nodes N.
        edge_weight: Positive weights (E,); default 1 each.

    Returns:
        (N, 2) float64, on the CPU.

    Raises:
        ValueError: Edges that are none, or no nodes.

    Example:
        >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> spectral_layout(path, 4)[:, 0].sign().tolist()
        [1.0, 1.0, -1.0, -1.0]
    """
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator, eigsh

    if num_nodes < 1:
        raise ValueError("A graph without nodes has no layout.")
    double = None if edge_weight is None else edge_weight.double().cpu()
    (row, column), weight = symmetrized(edge_index.cpu(), num_nodes, double)
    near = sparse.csr_array(
        (weight.double().numpy(), (row.numpy(), column.numpy())), shape=(num_nodes, num_nodes)
    )
    degree = near.sum(1)
    tau = degree.mean() or 1.0
    scale = 1 / np.sqrt(degree + tau)

    def step(vector: np.ndarray) -> Any:
        scaled = scale * vector.ravel()
        return scale * (near @ scaled + tau * scaled.mean())

    modes = min(3, num_nodes)
    if num_nodes <= DENSE_NODES:
        dense = near.toarray() + tau / num_nodes
        vectors = np.linalg.eigh(scale[:, None] * dense * scale)[1]
    else:
        operator = LinearOperator((num_nodes, num_nodes), matvec=step, dtype=np.float64)
        start = np.random.default_rng(0).random(num_nodes)
        values, vectors = eigsh(operator, k=modes, which="LA", v0=start)
        vectors = vectors[:, values.argsort()]
    found = vectors[:, ::-1][:, 1:modes] * scale[:, None]
    # a sign is arbitrary: the first of the large entries is positive
    large = np.abs(found) > 0.5 * np.abs(found).max(0, initial=0)
    places = np.zeros((num_nodes, 2))
    places[:, : modes - 1] = found * np.sign(found[large.argmax(0), np.arange(modes - 1)])
    return torch.from_numpy(places)
