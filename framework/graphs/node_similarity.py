"""Cosines between the embeddings of a graph's nodes, and how near a node's neighbors are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ENTRIES = 1 << 20
"""Entries of Gamma whose two embeddings are in memory at a time."""


def unit_rows(z: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the rows of a matrix at norm 1; a row of norm ``eps`` or less becomes 0.

    Such a row has no direction: its cosine with any other is 0, and it has no gradient, where that
    of ``torch.nn.functional.normalize`` is 1 / ``eps`` times as large as any other.

    Args:
        z: Matrix (N, d).
        eps: Norm up to which a row counts as 0.

    Returns:
        (N, d).

    Example:
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    # the norm of a row of zeros has no gradient, which 0 times it would turn into NaN
    kept = (z.detach().square().sum(1, keepdim=True) > eps**2).to(z.dtype)
    norm = torch.linalg.vector_norm(z * kept + (1 - kept), dim=1, keepdim=True)
    return z * (kept / norm)


def neighbor_similarity(
    unit: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor,
    tau: float,
    zero_diagonal: bool = True,
) -> Tensor:
    r"""Return :math:`\sum_j \Gamma_{ij} \exp(\tau \cos(z_i, z_j))` of every node i.

    Of many entries of Gamma the cosines are computed for some at a time, and again in the backward
    pass, so that memory does not grow with their number times d.

    Args:
        unit: Embeddings (N, d) of norm 1.
        edge_index: Places (2, E) int64 of the entries of the matrix Gamma, its row and its column.
        edge_weight: Entries (E,) of Gamma.
        tau: Factor of the cosine.
        zero_diagonal: Whether a node's cosine with itself counts as 0 instead of 1.

    Returns:
        (N,).
    """
    if len(edge_weight) <= ENTRIES:
        return _similarity(unit, edge_index, edge_weight, tau, zero_diagonal)
    near = unit.new_zeros(len(unit))
    parts = zip(edge_index.split(ENTRIES, 1), edge_weight.split(ENTRIES), strict=True)
    for edges, weight in parts:
        near = near + checkpoint(
            _similarity, unit, edges, weight, tau, zero_diagonal, use_reentrant=False
        )
    return near


def _similarity(
    unit: Tensor, edge_index: Tensor, edge_weight: Tensor, tau: float, zero_diagonal: bool
) -> Tensor:
    row, column = edge_index
    cosine = torch.linalg.vecdot(unit[row], unit[column])
    if zero_diagonal:
        cosine = cosine.masked_fill(row == column, 0)
    near = edge_weight.to(unit.dtype) * (tau * cosine).exp()
    return near.new_zeros(len(unit)).index_add(0, row, near)


def check_graph(name: str, z: Tensor, edge_index: Tensor, edge_weight: Tensor) -> None:
    """Raise ``ValueError`` unless embeddings (N, d), edges (2, E) and weights (E,) fit together."""
    fits = z.ndim == 2 and edge_index.ndim == 2 and len(edge_index) == 2
    if not fits or edge_weight.shape != edge_index.shape[1:]:
        raise ValueError(
            f"{name} takes embeddings (N, d), edges (2, E) and weights (E,), got "
            f"{tuple(z.shape)}, {tuple(edge_index.shape)} and {tuple(edge_weight.shape)}."
        )
