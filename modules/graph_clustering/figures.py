"""Figures of a clustering of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from framework.clustering.figures import cluster_confusion, group_names, stage_comparison

# in the order of the figure
STAGE_NAMES = {
    "kmeans_features": "k-means on features",
    "kmeans_code": "k-means on the code",
}
SCORES = ("accuracy", "nmi_arithmetic", "adjusted_rand", "f1")


def evaluation_figures(
    values: Mapping[str, Any],
    stages: Mapping[str, Mapping[str, float]],
    graph: Mapping[str, Tensor],
    class_names: Sequence[str] | None = None,
) -> dict[str, Figure]:
    """Return all figures of an evaluation, by name.

    Those that compare with classes are missing where the data has no labels.

    Args:
        values: Values of ``node_metrics``.
        stages: Scores of every baseline.
        graph: ``edge_index`` (2, E), embeddings ``z`` (N, d) and ``cluster`` (N,).
        class_names: Names of the classes; default 0, 1, ...
    """
    figures = {}
    table = values.get("confusion")
    if table is not None:
        figures["confusion_matrix"] = cluster_confusion(
            table, group_names(class_names, table.shape[1])
        )
        known = {title: stages[name] for name, title in STAGE_NAMES.items() if name in stages}
        if known:
            now = {name: float(values[name]) for name in SCORES}
            figures["stages"] = stage_comparison({**known, "graph and code": now})
    return figures
