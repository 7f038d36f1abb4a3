"""Contrast of a node's neighbors with the clusters of a graph: PamC."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.graphs.node_similarity import check_graph, neighbor_similarity, unit_rows
from framework.utilities.checks import check_at_least, check_one_of, check_positive
from framework.utilities.precision import at_least_float32


class PamCLoss(nn.Module):
    r"""Pulls a node to its neighbors, and pushes sums of whole clusters apart from one another.

    With cosines :math:`s_{ij}` of the embeddings and :math:`t_{kl}` of the meta-nodes
    :math:`m_k = \sum_{i: c_i = k} z_i`, both 0 on the diagonal, the loss is

    .. math:: -\frac1N \sum_i \log\Bigl(\sum_j \Gamma_{ij} e^{\tau s_{ij}}\Bigr)
              + \frac1K \sum_k \log\Bigl(\sum_l e^{\tau t_{kl}}\Bigr)

    where contrasting all pairs of nodes, ``FullNegativeLoss``, takes time and memory in N squared.
    Clusters without a node are left out of both sums over clusters. A cluster of a node each gives
    the loss of all pairs. The gradient reaches the embeddings, not the clusters.

    The temperature is that of the paper: ``tau`` multiplies, where that of SimCLR divides.

    Paper: Kulatilleke, Portmann and Chandra, Efficient block contrastive learning via
    parameter-free meta-node approximation, arXiv:2209.14067. The formula is that of the authors'
    code (gayanku/PAMC), which gives NaN for a cluster without nodes and for an embedding of zeros;
    ``size_weighted`` is not in it.

    Cost: time and memory in the entries of Gamma and in N + K squared.

    Args:
        tau: Factor of the cosines.
        zero_diagonal: Whether a node's cosine with itself, and a cluster's, count as 0 instead
            of 1.
        eps: Number added inside the logarithms.
        size_weighted: Whether each cluster counts by its nodes in both sums over clusters, as if
            each of its nodes lay where the meta-node does.
        reduction: Reduction over nodes: ``'mean'``, ``'sum'`` or ``'none'``; the sum over clusters
            is a part of every node's value.

    Raises:
        ValueError: An argument is out of its range, or shapes do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> edges = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 3, 3], [0, 1, 0, 1, 2, 1, 2, 3, 2, 3]])
        >>> weights = torch.tensor([1 / 2] * 2 + [1 / 3] * 6 + [1 / 2] * 2)
        >>> PamCLoss()(z, edges, weights, torch.tensor([0, 0, 1, 1]))
        tensor(0.4596)
    """

    def __init__(
        self,
        tau: float = 0.5,
        zero_diagonal: bool = True,
        eps: float = 1e-10,
        size_weighted: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_at_least(0, tau=tau)
        check_positive(eps=eps)
        check_one_of(("mean", "sum", "none"), reduction=reduction)
        self.tau = tau
        self.zero_diagonal = zero_diagonal
        self.eps = eps
        self.size_weighted = size_weighted
        self.reduction = reduction

    def forward(
        self,
        z: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor,
        assign: Tensor,
        num_clusters: int | None = None,
    ) -> Tensor:
        """Return the loss, a scalar, or (N,) with ``reduction='none'``; float32 at least.

        Args:
            z: Embeddings (N, d).
            edge_index: Places (2, E) int64 of the entries of Gamma, such as
                ``adjacency_powers`` returns them.
            edge_weight: Entries (E,) of Gamma, at least 0.
            assign: Cluster (N,) int64 of every node, in 0..K-1.
            num_clusters: Number K of clusters; default the largest that occurs, which makes the
                host wait for a GPU.
        """
        check_graph(type(self).__name__, z, edge_index, edge_weight)
        with torch.autocast(z.device.type, enabled=False):
            z = at_least_float32(z)
            unit = unit_rows(z)
            near = neighbor_similarity(unit, edge_index, edge_weight, self.tau, self.zero_diagonal)
            clusters = int(assign.max()) + 1 if num_clusters is None else num_clusters
            apart = self.negative(z, assign, clusters)
            return reduced(apart - (near + self.eps).log(), self.reduction)

    def negative(self, z: Tensor, assign: Tensor, num_clusters: int) -> Tensor:
        """Return the mean over clusters of the logarithm of their similarity to all, a scalar."""
        similarity = (self.tau * self._cosine(meta_nodes(z, assign, num_clusters))).exp()
        sizes = z.new_zeros(num_clusters).index_add(0, assign, torch.ones_like(z[:, 0]))
        counts = sizes if self.size_weighted else (sizes > 0).to(z.dtype)
        # an empty one is taken out by a weight of 0, as to drop it would make a GPU wait
        logs = (similarity @ counts + self.eps).log()
        return (counts * logs).sum() / counts.sum()

    def _cosine(self, nodes: Tensor) -> Tensor:
        unit = unit_rows(nodes)
        cosine = unit @ unit.T
        own = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
        return cosine.masked_fill(own, 0.0 if self.zero_diagonal else 1.0)


def meta_nodes(z: Tensor, assign: Tensor, num_clusters: int) -> Tensor:
    """Return the sum of each cluster's embeddings, (K, d); 0 where there is no node.

    Args:
        z: Embeddings (N, d).
        assign: Cluster (N,) int64 of every node, in 0..K-1.
        num_clusters: Number K of clusters.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> meta_nodes(z, torch.tensor([0, 0, 2]), num_clusters=3)
        tensor([[1.8000, 0.6000],
                [0.0000, 0.0000],
                [0.0000, 1.0000]])
    """
    return z.new_zeros(num_clusters, z.shape[1]).index_add(0, assign, z)


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Return the values of all nodes, (N,), their sum or their mean."""
    if reduction == "none":
        return values
    return values.sum() if reduction == "sum" else values.mean()
