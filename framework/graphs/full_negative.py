"""Contrast of a node's neighbors with all nodes of the graph: SCGC*."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from framework.graphs.node_similarity import check_graph, neighbor_similarity, unit_rows
from framework.graphs.pamc import reduced
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.precision import at_least_float32


class FullNegativeLoss(nn.Module):
    r"""Pulls a node to its neighbors and pushes it from all others: what PamC approximates.

    .. math:: -\frac1N \sum_i \log \frac{\sum_j \Gamma_{ij} e^{\tau s_{ij}}}
              {\sum_j e^{\tau s_{ij}}}

    with cosines :math:`s_{ij}` of the embeddings, 0 on the diagonal. The denominators are computed
    for some nodes at a time, and again in the backward pass: time grows with N squared, memory
    with N.

    Paper: the loss SCGC* of Kulatilleke, Portmann and Chandra, SCGC: Self-supervised contrastive
    graph clustering, arXiv:2204.12656, as the baseline of arXiv:2209.14067 has it.

    Args:
        tau: Factor of the cosines.
        zero_diagonal: Whether a node's cosine with itself counts as 0 instead of 1.
        eps: Number added inside the logarithms.
        pairs: Most pairs of nodes in memory at a time.
        reduction: Reduction over nodes: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: An argument is out of its range, or shapes do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> edges = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 0, 1, 2, 1, 2, 3, 2, 3]])
        >>> weights = torch.tensor([1 / 2] * 2 + [1 / 3] * 6 + [1 / 2] * 2)
        >>> FullNegativeLoss()(z, edges, weights)
        tensor(1.2765)
    """

    def __init__(
        self,
        tau: float = 0.5,
        zero_diagonal: bool = True,
        eps: float = 1e-10,
        pairs: int = 4_000_000,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_at_least(0, tau=tau)
        check_at_least(1, pairs=pairs)
        check_positive(eps=eps)
        check_one_of(("mean", "sum", "none"), reduction=reduction)
        self.tau = tau
        self.zero_diagonal = zero_diagonal
        self.eps = eps
        self.pairs = pairs
        self.reduction = reduction

    def forward(self, z: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """Return the loss, a scalar, or (N,) with ``reduction='none'``; float32 at least.

        Args:
            z: Embeddings (N, d).
            edge_index: Places (2, E) int64 of the entries of Gamma.
            edge_weight: Entries (E,) of Gamma, at least 0.
        """
        check_graph(type(self).__name__, z, edge_index, edge_weight)
        with torch.autocast(z.device.type, enabled=False):
            unit = unit_rows(at_least_float32(z))
            near = neighbor_similarity(unit, edge_index, edge_weight, self.tau, self.zero_diagonal)
            values = self.all_similarity(unit).log() - (near + self.eps).log()
            return reduced(values, self.reduction)

    def all_similarity(self, unit: Tensor) -> Tensor:
        r"""Return :math:`\sum_j \exp(\tau s_{ij})` of embeddings (N, d) of norm 1, (N,)."""
        nodes = len(unit)
        rows = max(1, self.pairs // max(nodes, 1))
        starts = range(0, nodes, rows)
        if len(starts) == 1:
            return self._rows(unit, unit, 0)
        parts = [
            checkpoint(self._rows, unit[start : start + rows], unit, start, use_reentrant=False)
            for start in starts
        ]
        return torch.cat(parts)

    def _rows(self, some: Tensor, unit: Tensor, start: int) -> Tensor:
        cosine = some @ unit.T
        place = torch.arange(len(some), device=some.device)
        own = place.new_zeros(cosine.shape, dtype=torch.bool)
        own[place, place + start] = True
        return (self.tau * cosine.masked_fill(own, 0.0 if self.zero_diagonal else 1.0)).exp().sum(1)
