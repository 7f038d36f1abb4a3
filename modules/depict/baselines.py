"""Scores of the clusters that DEPICT starts from, and of simpler ways to cluster."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from framework.solvers.initial_clusters import InitKind, initial_clusters
from modules.depict.scores import stage_scores


def initial_scores(
    first: Tensor,
    code: Tensor,
    label: Tensor,
    kind: InitKind,
    num_clusters: int,
    seed: int,
    options: dict[str, Any],
    pixels: Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Return accuracy and NMI of the first clusters, and of k-means on the code and on pixels.

    Args:
        first: Clusters of the samples that DEPICT starts from, (N,).
        code: Codes of the samples, (N, D), from which ``first`` was found.
        label: Classes of the samples, (N,).
        kind: Method that found ``first``.
        num_clusters: Number K of clusters.
        seed: Seed of k-means.
        options: Arguments of the estimator that found ``first``.
        pixels: Pixels of the samples, (N, P); None to leave them out.
    """
    scores = {f"{kind}_code": stage_scores(first, label, num_clusters)}
    if kind != "kmeans":
        plain = initial_clusters(code, num_clusters, "kmeans", seed)
        scores["kmeans_code"] = stage_scores(plain, label, num_clusters)
    if pixels is not None:
        own = options if kind == "kmeans" else {}
        plain = initial_clusters(pixels, num_clusters, "kmeans", seed, **own)
        scores["kmeans_pixels"] = stage_scores(plain, label, num_clusters)
    return scores
