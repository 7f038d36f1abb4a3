"""What transductive clustering of few-shot tasks is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.solvers.bound_step import laplacian_assignments
from framework.solvers.cluster_prototypes import cluster_means
from framework.solvers.few_shot_task import as_tasks, query_classes
from framework.solvers.neighbor_affinity import nearest_rows
from framework.utilities.checks import check_at_least

SHARPNESS = 10.0
"""Factor of the cosine in the weights of a rectified prototype."""


class NearestPrototype:
    """Classifies each query by the nearest mean of a class's supports, one at a time.

    Paper: Snell, Swersky, Zemel, arXiv:1703.05175; of centered features with unit norm it is
    SimpleShot, Wang et al., arXiv:1911.04623.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [0.1], [0.8]])
        >>> NearestPrototype().fit_predict(x, torch.tensor([0, 1]), num_classes=2)
        tensor([0, 1])
    """

    @torch.no_grad()
    def fit_predict(self, x: Tensor, support_labels: Tensor, num_classes: int) -> Tensor:
        """Return the classes of the queries; the arguments are ``LaplacianClustering``'s."""
        with torch.autocast(x.device.type, enabled=False):
            tasks, fixed = as_tasks(x, support_labels, num_classes)
            means = cluster_means(tasks[:, : fixed.shape[1]], fixed)
            return query_classes(squared_distances(tasks, means).argmin(-1), x, support_labels)


class LaplacianShot:
    """Classifies queries by prototypes that stay, and by their neighbors among the queries.

    Prototypes are rectified by default: see ``rectified_prototypes``.

    Paper: Ziko, Dolz, Granger, Ben Ayed, Laplacian Regularized Few-Shot Learning, ICML 2020,
    arXiv:2006.15486. Accuracies in the paper's code (imtiazziko/LaplacianShot) are those after the
    best matching of clusters to classes, which supports make needless.

    Args:
        lam: Weight lambda of the Laplacian term.
        knn: Number of neighbors of a query, itself among them.
        max_inner: Most iterations of the assignments.
        inner_tol: Relative change of the energy at which they end.
        rectify: Whether queries take part in the prototypes.

    Raises:
        ValueError: An argument is out of its range, or (when fitted) a task has fewer queries than
            ``knn``.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.2, 0.9], [0.3, 0.9], [0.9, 0.1]])
        >>> LaplacianShot().fit_predict(x, torch.tensor([0, 1]), num_classes=2)
        tensor([0, 0, 1])
    """

    def __init__(
        self,
        lam: float = 0.7,
        knn: int = 3,
        max_inner: int = 20,
        inner_tol: float = 1e-6,
        rectify: bool = True,
    ) -> None:
        check_at_least(0, lam=lam, inner_tol=inner_tol)
        check_at_least(1, knn=knn, max_inner=max_inner)
        self.lam = lam
        self.knn = knn
        self.max_inner = max_inner
        self.inner_tol = inner_tol
        self.rectify = rectify

    @torch.no_grad()
    def fit_predict(self, x: Tensor, support_labels: Tensor, num_classes: int) -> Tensor:
        """Return the classes of the queries; the arguments are ``LaplacianClustering``'s."""
        with torch.autocast(x.device.type, enabled=False):
            tasks, fixed = as_tasks(x, support_labels, num_classes)
            supports = fixed.shape[1]
            query = tasks[:, supports:]
            if self.rectify:
                prototypes = rectified_prototypes(tasks, fixed)
            else:
                prototypes = cluster_means(tasks[:, :supports], fixed)
            assignment, _ = laplacian_assignments(
                squared_distances(query, prototypes),
                nearest_rows(squared_distances(query, query), self.knn),
                self.lam,
                max_inner=self.max_inner,
                tol=self.inner_tol,
            )
            labels = torch.cat([fixed, assignment], dim=1).argmax(-1)
            return query_classes(labels, x, support_labels)


def rectified_prototypes(x: Tensor, fixed: Tensor) -> Tensor:
    """Return prototypes that the likely members of a class take part in, (T, K, d).

    Every query counts for the class mean m that is nearest by cosine, every support for its own
    class, with the weight softmax_k(10 cos(x, m_k)) of that class; a prototype is the weighted mean
    of what counts for it. The paper's code divides by the number instead of the sum of the weights,
    which shrinks prototypes, and loses a class whose supports are nearer to another.

    Args:
        x: Features (T, N, d), the supports first.
        fixed: One-hot classes of the supports (T, S, K).

    Example:
        >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.0]]])
        >>> rectified_prototypes(x, torch.eye(2)[None])[0, 0]
        tensor([0.9000, 0.0000])
    """
    means = cluster_means(x[:, : fixed.shape[1]], fixed)
    cosine = F.normalize(x, dim=-1) @ F.normalize(means, dim=-1).transpose(-1, -2)
    member = F.one_hot(cosine.argmax(-1), fixed.shape[2]).to(x.dtype)
    member[:, : fixed.shape[1]] = fixed
    return cluster_means(x, member * (SHARPNESS * cosine).softmax(-1))
