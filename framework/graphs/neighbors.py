"""The graph that joins every row of features to the rows nearest to it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.graphs.adjacency import Edges, symmetrized
from framework.utilities.checks import check_at_least, check_one_of

NeighborMetric = Literal["cosine", "euclidean"]


def neighbor_graph(x: Tensor, neighbors: int = 5, metric: NeighborMetric = "cosine") -> Edges:
    """Return the undirected graph of the nearest neighbors of each row.

    Two nodes are joined if one of them is among the ``neighbors`` nearest of the other; a row is
    not a neighbor of itself, but of its copies. Every weight is 1.

    Args:
        x: Features (N, F), finite.
        neighbors: Number of nearest rows that each row is joined to.
        metric: Distance of two rows: ``cosine`` or ``euclidean``.

    Returns:
        ``edge_index`` (2, E) with both directions, sorted by row, then column, and ``edge_weight``
        (E,).

    Raises:
        ValueError: Fewer than ``neighbors`` + 1 rows, values that are not finite, or an unknown
            metric.

    Example:
        >>> neighbor_graph(torch.tensor([[0.0], [1.0], [3.0], [3.5]]), 1, "euclidean")[0]
        tensor([[0, 1, 2, 3],
                [1, 0, 3, 2]])
    """
    from sklearn.neighbors import NearestNeighbors

    check_one_of(get_args(NeighborMetric), metric=metric)
    check_at_least(1, neighbors=neighbors)
    if x.ndim != 2 or len(x) <= neighbors:
        raise ValueError(
            f"x must be (N, F) with more rows than neighbors={neighbors}, got {tuple(x.shape)}."
        )
    if not x.isfinite().all():
        raise ValueError("Features must be finite to have neighbors.")
    search = NearestNeighbors(n_neighbors=neighbors, metric=metric)
    nearest = search.fit(x.double().cpu().numpy()).kneighbors(return_distance=False)
    rows = np.repeat(np.arange(len(x)), neighbors)
    pairs = torch.from_numpy(np.stack([rows, nearest.ravel().astype(np.int64)]))
    return symmetrized(pairs.to(x.device), len(x))
