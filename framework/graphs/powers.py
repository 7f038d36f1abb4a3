"""Powers of a graph's normalized adjacency, refused before they would take too much memory."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.graphs.adjacency import Edges, normalized_adjacency
from framework.utilities import limits
from framework.utilities.checks import check_at_least

ENTRY_BYTES = 48
"""Memory that an entry of the result takes at most while the last product is made."""
CHUNK_ENTRIES = 1 << 22
"""Entries at most of the part of a product that is made to be counted."""


class GraphTooDenseError(ValueError):
    """A power of an adjacency that would take more memory than is allowed."""


def adjacency_powers(
    edge_index: Tensor,
    num_nodes: int,
    edge_weight: Tensor | None = None,
    *,
    order: int = 1,
    cumulative: bool = True,
    max_bytes: int | None = None,
) -> Edges:
    r"""Return how much every node reaches every other one within ``order`` steps of a walk.

    With :math:`\tilde A = D^{-1}(A + I)` of ``normalized_adjacency`` it is
    :math:`\sum_{s=1}^{r} \tilde A^s`, the "influence" of the paper, or :math:`\tilde A^r`.
    The entries are those pairs of nodes that are at most ``order`` edges apart, and their number
    may grow quickly with it. Each takes 48 bytes at most while they are computed, in float64. The
    number is known, by an upper bound or by counting part by part, before that memory is taken.

    Paper: Kulatilleke et al., *Efficient block contrastive learning via parameter-free meta-node
    approximation*, arXiv:2209.14067; its code sums the powers in all runs.

    Args:
        edge_index: Edges (2, E) int64 of the graph itself, in one or both directions.
        num_nodes: Number of nodes N.
        edge_weight: Positive weights (E,); default 1 each.
        order: Largest number of steps, r.
        cumulative: Whether the powers from 1 to r are summed.
        max_bytes: Bytes that may be taken; default the limit of a file's content, 2 GiB or
            what ``TRIMTAB_MAX_GIB`` says.

    Returns:
        ``edge_index`` (2, E') sorted by row, then column, and ``edge_weight`` (E',).

    Raises:
        ValueError: ``order`` below 1, or edges that are none.
        GraphTooDenseError: The result would take more than ``max_bytes``.

    Example:
        >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> pairs, weight = adjacency_powers(path, 4, order=2)
        >>> weight[pairs[0] == 0]
        tensor([0.9167, 0.9167, 0.1667])
    """
    from scipy import sparse

    check_at_least(1, order=order)
    limit = limits.max_bytes() if max_bytes is None else max_bytes
    double = None if edge_weight is None else edge_weight.double().cpu()
    edges, weight = normalized_adjacency(edge_index.cpu(), num_nodes, double)
    dtype = torch.get_default_dtype() if edge_weight is None else edge_weight.dtype
    row, column = edges.numpy()
    step = sparse.csr_array((weight.double().numpy(), (row, column)), shape=(num_nodes, num_nodes))
    identity = sparse.eye_array(num_nodes, format="csr")
    found = step
    _check_entries(step.nnz, 1, limit)
    for power in range(2, order + 1):
        _check_entries(reached_entries(step, found, limit // ENTRY_BYTES), power, limit)
        found = step @ (found + identity if cumulative else found)
    found.sort_indices()
    pairs = torch.empty(2, found.nnz, dtype=torch.int64)
    pairs[0] = torch.from_numpy(np.repeat(np.arange(num_nodes), np.diff(found.indptr)))
    pairs[1] = torch.from_numpy(found.indices)
    values = torch.from_numpy(found.data).to(dtype)
    return pairs.to(edge_index.device), values.to(edge_index.device)


def reached_entries(step: Any, reached: Any, enough: int) -> int:
    """Return how many entries ``step @ reached`` has, or a number that bounds it.

    The bound takes no memory; only where it is above ``enough`` the entries are counted, one part
    of the rows after the other, until they are more than that.

    Args:
        step: SciPy's CSR matrix (N, N) with a full diagonal, without negative entries.
        reached: CSR matrix (N, N) without negative entries.
        enough: Number up to which a bound will do.
    """
    rows = step.shape[0]
    terms = step.astype(bool).astype(np.int64) @ np.diff(reached.indptr).astype(np.int64)
    bound = int(np.minimum(terms, rows).sum())
    if bound <= enough:
        return bound
    pattern, other = step.astype(bool), reached.astype(bool)
    ends = np.searchsorted(
        np.cumsum(np.minimum(terms, rows)), np.arange(CHUNK_ENTRIES, bound, CHUNK_ENTRIES), "right"
    )
    bounds = np.unique(np.concatenate([[0], ends, [rows]]))
    count = 0
    for first, last in pairwise(bounds):
        count += (pattern[first:last] @ other).nnz
        if count > enough:
            break
    return count


def _check_entries(entries: int, order: int, limit: int) -> None:
    if entries * ENTRY_BYTES > limit:
        raise GraphTooDenseError(
            f"Order {order} joins {entries:,} or more pairs of nodes, which would take "
            f"{entries * ENTRY_BYTES / 2**20:,.0f} MiB, above the limit of {limit / 2**20:,.0f} "
            "MiB: take a smaller order, or allow more by max_bytes."
        )
