"""Solvers of few-shot tasks by name, as they stand side by side in an evaluation."""

from __future__ import annotations

from typing import Literal, get_args

from framework.solvers.few_shot_baselines import LaplacianShot, NearestPrototype
from framework.solvers.few_shot_task import FewShotSolver
from framework.solvers.laplacian_clustering import LaplacianClustering
from framework.utilities.checks import check_one_of

SolverName = Literal[
    "nearest_prototype",
    "kmeans",
    "kmodes",
    "laplacian_shot",
    "slk_means",
    "slk_ms",
    "slk_medoid",
]
"""Name of a solver: two with fixed prototypes, and clustering without and with neighbors."""
WITH_NEIGHBORS: tuple[SolverName, ...] = ("laplacian_shot", "slk_means", "slk_ms", "slk_medoid")
"""Solvers whose result depends on the weight of the Laplacian term."""


def few_shot_solver(name: SolverName, lam: float = 0.7, knn: int = 3) -> FewShotSolver:
    """Return a solver of few-shot tasks by its name.

    Args:
        name: Name ``nearest_prototype``, ``kmeans``, ``kmodes``, ``laplacian_shot``, ``slk_means``,
            ``slk_ms`` (modes) or ``slk_medoid``.
        lam: Weight of the Laplacian term of those that have one.
        knn: Number of neighbors of a row, itself among them.

    Raises:
        ValueError: The name is unknown, or an argument is out of its range.

    Example:
        >>> type(few_shot_solver("slk_ms", lam=0.5)).__name__
        'LaplacianClustering'
    """
    check_one_of(get_args(SolverName), solvers=name)
    if name == "nearest_prototype":
        return NearestPrototype()
    if name == "laplacian_shot":
        return LaplacianShot(lam, knn)
    if name == "kmeans":
        return LaplacianClustering("mean", lam=0.0, knn=knn)
    if name == "kmodes":
        return LaplacianClustering("mode", lam=0.0, knn=knn)
    if name == "slk_means":
        return LaplacianClustering("mean", lam, knn)
    return LaplacianClustering("mode" if name == "slk_ms" else "medoid", lam, knn)
