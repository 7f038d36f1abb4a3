"""Transductive few-shot classification: clustering of supports and queries together."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.solvers.bound_step import bound_step, laplacian_assignments
from framework.solvers.cluster_prototypes import (
    CenteredRows,
    PrototypeKind,
    centered_rows,
    cluster_means,
    cluster_medoids,
    cluster_modes,
    prototype_cost,
)
from framework.solvers.few_shot_task import as_tasks, query_classes
from framework.solvers.neighbor_affinity import (
    kernel_bandwidth,
    nearest_rows,
    neighbor_affinity,
    neighbor_sums,
)
from framework.utilities.checks import check_at_least, check_one_of

FREE_ROUNDS = 2
"""Outer rounds before the first test of convergence."""


class LaplacianClusters(NamedTuple):
    """Clusters of T tasks with N rows, K classes and features of width d.

    Args:
        labels: Class of each row (T, N) int64, supports first.
        assignments: Soft assignments Z (T, N, K).
        prototypes: Prototypes (T, K, d).
        energy: Energy of each task (T,) float64.
        rounds: Number of outer rounds of each task (T,) int64.
    """

    labels: Tensor
    assignments: Tensor
    prototypes: Tensor
    energy: Tensor
    rounds: Tensor


class LaplacianClustering:
    r"""Clusters supports and queries of few-shot tasks by prototypes and agreeing neighbors (SLK).

    A task's energy
    \sum_{pk} z_pk (a_pk + \log z_pk) - \lambda / 2 \sum_k z_k^T W z_k
    is lowered in turn over the prototypes, which a_pk is the cost of, and over the assignments Z,
    whose rows lie in the simplex and are fixed for supports. Rows are neighbors in W by the nearest
    ones. ``lam=0`` is k-means or k-modes that starts at the supports.

    All tasks of a batch are solved together, and one that has converged rests, so that its result
    is that of the task alone up to rounding. Distances and softmax are in float32 at least.

    Paper: Ziko, Boudiaf, Dolz, Granger, Ben Ayed, Transductive Few-Shot Learning: Clustering is All
    You Need?, 2021, arXiv:2106.09516. As in the paper, supports are held at every iteration, where
    the authors' code (imtiazziko/SLK-few-shot) frees them after the first one: ``hold_supports``
    False. Prototypes are those of hard labels; the code's k-means takes soft ones with a Laplacian
    term. Its kNN graph, with ``knn`` 3 two neighbors of each row and not symmetric, is the default
    here, though only a symmetric positive semi-definite W makes the energy decrease at every
    step: see ``symmetrize`` and ``psd_shift``. The energy has lambda / 2; the code prints lambda.

    Args:
        prototype: Prototypes of a class: its ``mean``, with the squared distance as cost; its
            ``mode`` by mean-shift, with a Gaussian kernel as cost; or its ``medoid``, the row that
            belongs to it most, with the same cost.
        lam: Weight lambda of the Laplacian term.
        knn: Number of neighbors of a row, itself among them.
        symmetrize: Whether two rows are neighbors of each other where one is of the other.
        psd_shift: Value that is added to the diagonal of W, see ``least_psd_shift``.
        max_outer: Most rounds of new prototypes.
        max_inner: Most iterations of the assignments in a round.
        tol: Relative change of the energy at which a task ends.
        inner_tol: Relative change of the energy at which the assignments of a round end.
        hold_supports: Whether supports keep their class at every iteration.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [0.1], [0.2], [0.9]])
        >>> LaplacianClustering(lam=0.5).fit_predict(x, torch.tensor([0, 1]), num_classes=2)
        tensor([0, 0, 1])
    """

    def __init__(
        self,
        prototype: PrototypeKind = "mean",
        lam: float = 0.7,
        knn: int = 3,
        symmetrize: bool = False,
        psd_shift: float = 0.0,
        max_outer: int = 100,
        max_inner: int = 600,
        tol: float = 1e-4,
        inner_tol: float = 1e-7,
        hold_supports: bool = True,
    ) -> None:
        check_one_of(get_args(PrototypeKind), prototype=prototype)
        check_at_least(0, lam=lam, psd_shift=psd_shift, tol=tol, inner_tol=inner_tol)
        check_at_least(1, knn=knn, max_outer=max_outer, max_inner=max_inner)
        self.prototype: PrototypeKind = prototype
        self.lam = lam
        self.knn = knn
        self.symmetrize = symmetrize
        self.psd_shift = psd_shift
        self.max_outer = max_outer
        self.max_inner = max_inner
        self.tol = tol
        self.inner_tol = inner_tol
        self.hold_supports = hold_supports

    def fit_predict(self, x: Tensor, support_labels: Tensor, num_classes: int) -> Tensor:
        """Return the classes of the queries, (T, N - S) int64, or (N - S,) of one task.

        Args:
            x: Features (T, N, d), or (N, d) of one task, the S supports first.
            support_labels: Classes of the supports (T, S), or (S,) if they are those of every task.
            num_classes: Number K of classes.

        Raises:
            ValueError: Shapes that do not fit, or a class without support.
        """
        return query_classes(self.fit(x, support_labels, num_classes).labels, x, support_labels)

    @torch.no_grad()
    def fit(self, x: Tensor, support_labels: Tensor, num_classes: int) -> LaplacianClusters:
        """Return the clusters of tasks; the arguments are those of ``fit_predict``."""
        with torch.autocast(x.device.type, enabled=False):
            return self._fit(*as_tasks(x, support_labels, num_classes))

    def _fit(self, x: Tensor, fixed: Tensor) -> LaplacianClusters:
        supports = fixed.shape[1]
        affinity, variance = self._neighbors(x)
        rows = centered_rows(x)
        prototypes = medoids = cluster_means(rows.x[:, :supports], fixed)
        nearest = prototype_cost(rows, prototypes, "mean", variance).argmin(-1)
        nearest[:, :supports] = fixed.argmax(-1)
        now = LaplacianClusters(
            nearest,
            F.one_hot(nearest, fixed.shape[2]).to(x.dtype),
            prototypes,
            x.new_full((len(x),), torch.inf, dtype=torch.float64),
            torch.zeros(len(x), dtype=torch.int64, device=x.device),
        )
        result = LaplacianClusters(*(torch.empty_like(value) for value in now))
        tasks = torch.arange(len(x), device=x.device)
        for outer in range(self.max_outer):
            after, medoids = self._round(rows, fixed, affinity, variance, now, medoids)
            going = F.one_hot(after.labels, fixed.shape[2]).sum(1).gt(0).all(-1)
            change = (after.energy - now.energy).abs()
            converged = change <= self.tol * now.energy.abs()
            # a class without a row ends its task at the round before
            now = _where(going, after, now)
            if outer >= FREE_ROUNDS:
                going &= ~converged
            left = int(going.sum())
            if not left:
                break
            if left < len(going):
                _put(result, tasks, now, rows.origin)
                now = LaplacianClusters(*(value[going] for value in now))
                rows = CenteredRows(*(value[going] for value in rows))
                fixed, affinity, variance = fixed[going], affinity[going], variance[going]
                tasks, medoids = tasks[going], medoids[going]
        _put(result, tasks, now, rows.origin)
        return result

    def _neighbors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return neighbors (T, N, M) or W (T, N, N), and the squared bandwidths (T,)."""
        if self.lam == 0 and self.prototype == "mean":
            # k-means looks at neither
            return x.new_zeros(len(x), 0, 0), x.new_zeros(len(x))
        distances = squared_distances(x, x)
        affinity = nearest_rows(distances, self.knn)
        if self.symmetrize or self.psd_shift:
            affinity = neighbor_affinity(x, self.knn, self.symmetrize)
        variance = kernel_bandwidth(distances, affinity)
        if self.psd_shift:
            affinity.diagonal(dim1=-2, dim2=-1).add_(self.psd_shift)
        return affinity, variance

    def _round(
        self,
        rows: CenteredRows,
        fixed: Tensor,
        affinity: Tensor,
        variance: Tensor,
        before: LaplacianClusters,
        medoids: Tensor,
    ) -> tuple[LaplacianClusters, Tensor]:
        """Return the clusters after new prototypes and assignments, and the next medoids."""
        member = F.one_hot(before.labels, fixed.shape[2])
        if self.prototype == "mean":
            prototypes = cluster_means(rows.x, member.to(rows.x.dtype))
        elif self.prototype == "mode":
            prototypes = cluster_modes(rows, member.bool(), before.prototypes, variance)
        else:
            prototypes = medoids
        unary = prototype_cost(rows, prototypes, self.prototype, variance)
        assignment, energy = laplacian_assignments(
            unary,
            affinity,
            self.lam,
            fixed=fixed,
            hold=self.hold_supports,
            max_inner=self.max_inner,
            tol=self.inner_tol,
        )
        if self.prototype == "medoid":
            neighbors = neighbor_sums(affinity, assignment.mT).mT
            medoids = cluster_medoids(rows.x, bound_step(unary, neighbors, self.lam))
        labels = assignment.argmax(-1)
        return (
            LaplacianClusters(labels, assignment, prototypes, energy, before.rounds + 1),
            medoids,
        )


def _where(chosen: Tensor, new: LaplacianClusters, old: LaplacianClusters) -> LaplacianClusters:
    """Return the new clusters of the chosen tasks (T,) bool, and the old ones of the others."""
    pairs = zip(new, old, strict=True)
    return LaplacianClusters(
        *(torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other) for one, other in pairs)
    )


def _put(
    result: LaplacianClusters, tasks: Tensor, clusters: LaplacianClusters, origin: Tensor
) -> None:
    """Put the clusters of some tasks, whose prototypes are about an origin, into those of all."""
    clusters = clusters._replace(prototypes=clusters.prototypes + origin)
    for whole, part in zip(result, clusters, strict=True):
        whole[tasks] = part
