"""Figures of a clustering of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from framework.clustering.figures import cluster_confusion, group_names, stage_comparison
from framework.figures.embedding_map import plane_points
from framework.graphs.graph_map import graph_map

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
        graph: ``edge_index`` (2, E), embeddings ``z`` (N, d), ``cluster`` (N,) and, with labels,
            ``label`` (N,); empty for no map of it.
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
            figures["stages"] = stage_comparison({**known, "with the edges": now})
    if graph:
        figures["graph"] = embedded_graph(graph, class_names)
    return figures


def embedded_graph(graph: Mapping[str, Tensor], class_names: Sequence[str] | None = None) -> Figure:
    """Draw the graph where the code puts its nodes, by cluster and, with labels, by class.

    Args:
        graph: As in ``evaluation_figures``.
        class_names: Names of the classes; default 0, 1, ...
    """
    points, said = plane_points(graph["z"])
    groups = {"cluster": graph["cluster"]}
    if "label" in graph:
        groups["class"] = graph["label"]
    return graph_map(
        graph["edge_index"],
        torch.from_numpy(points),
        {name: group.cpu() for name, group in groups.items()},
        names=None if class_names is None else {"class": class_names},
        title="The graph where the code puts its nodes",
        layout=said,
    )
