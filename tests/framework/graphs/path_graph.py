"""The worked example of PamC: a path of four nodes."""

from __future__ import annotations

import torch
from torch import Tensor

Z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
ASSIGN = torch.tensor([0, 0, 1, 1])


def adjacency() -> Tensor:
    """Return the path's adjacency with self-loops, its rows divided by their sums."""
    near = torch.eye(4, dtype=torch.float64)
    for a, b in [(0, 1), (1, 2), (2, 3)]:
        near[a, b] = near[b, a] = 1
    return near / near.sum(1, keepdim=True)


def gamma(order: int) -> tuple[Tensor, Tensor]:
    """Return the places and the entries of the sum of the adjacency's powers up to ``order``."""
    power = total = adjacency()
    for _ in range(order - 1):
        power = power @ adjacency()
        total = total + power
    edges = total.nonzero().T
    return edges, total[edges[0], edges[1]]
