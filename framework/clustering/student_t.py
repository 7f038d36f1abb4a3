"""Soft assignment to cluster centers by Student's t-distribution, as DEC has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32


class StudentTAssignment(nn.Module):
    r"""Assigns points softly to trainable centers, by Student's t-distribution of their distance.

    .. math:: q_{ik} \propto (1 + \|z_i - \mu_k\|^2 / \nu)^{-(\nu + 1) / 2}

    ``forward`` returns log q. Training pulls q to ``dec_target_distribution(q, "square")``, held
    fixed, by ``assignment_divergence``. Centers start at random, which is of little use: place them
    by k-means.

    Shapes: points (B, d); log q (B, K), float32 at least.

    Paper: Xie, Girshick and Farhadi, Unsupervised Deep Embedding for Clustering Analysis (DEC),
    ICML 2016, arXiv:1511.06335.

    Args:
        num_clusters: Number K of clusters.
        dim: Size d of a point.
        nu: Degrees of freedom of the distribution; DEC's is 1.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> head = StudentTAssignment(num_clusters=2, dim=2)
        >>> head.place(torch.tensor([[0.9, 0.3], [-0.3, 0.9]]))
        >>> head(torch.tensor([[1.0, 0.0], [0.8, 0.6]])).exp()
        tensor([[0.7609, 0.2391],
                [0.6765, 0.3235]], grad_fn=<ExpBackward0>)
    """

    def __init__(self, num_clusters: int, dim: int, nu: float = 1.0) -> None:
        super().__init__()
        check_at_least(1, num_clusters=num_clusters, dim=dim)
        check_positive(nu=nu)
        self.nu = nu
        self.centers = nn.Parameter(torch.empty(num_clusters, dim))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, z: Tensor) -> Tensor:
        """Return log q, (B, K)."""
        with torch.autocast(z.device.type, enabled=False):
            z, centers = at_least_float32(z), at_least_float32(self.centers)
            # differences, as the products of a fast distance lose the digits of a short one
            squares = (z[:, None] - centers).square().sum(-1)
            return (-(self.nu + 1) / 2 * (squares / self.nu).log1p()).log_softmax(1)

    @torch.no_grad()
    def place(self, centers: Tensor) -> None:
        """Move the centers to (K, d)."""
        self.centers.copy_(centers)


def assignment_divergence(log_q: Tensor, p: Tensor) -> Tensor:
    r"""Return :math:`\mathrm{KL}(p_i \| q_i)` of every row, (B,).

    Args:
        log_q: Logarithms (B, K) of the assignments.
        p: Targets (B, K), constant for the gradient.

    Example:
        >>> assignment_divergence(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]))
        tensor([0.6931])
    """
    p = p.detach()
    return (torch.xlogy(p, p) - p * log_q).sum(1)
