"""A graph as a picture: nodes in the plane, colored by their groups, and the edges between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from framework.figures.groups import MOST_NAMED, group_colors, name_groups
from framework.figures.style import STYLE, WIDTH, titled

MOST_EDGES = 5000
"""Edges that are drawn of a graph at most, as more of them would cover it."""
BETWEEN = "0.6"
"""Gray of edges between two groups, and of nodes of none."""
SHORT = 3
"""Letters of names that are written on the points; longer ones stand below."""


@rc_context(STYLE)
def graph_map(
    edge_index: Tensor,
    points: Tensor,
    groups: Mapping[str, Tensor],
    names: Mapping[str, Sequence[str]] | None = None,
    title: str = "Graph",
    layout: str = "",
    max_edges: int = MOST_EDGES,
) -> Figure:
    """Draw a graph in the plane, once for each grouping of its nodes.

    An edge inside a group has the color of the group, one between two groups is gray. Of more
    than ``max_edges`` edges a random part is drawn, the same in every panel. Nodes whose point is
    not finite are left out, with their edges.

    Args:
        edge_index: Edges (2, E) int64, in one or both directions.
        points: Place of each node, (N, 2), such as two principal components of its embedding, or
            ``spectral_layout``.
        groups: Group of each node, (N,) int64, by what it is, such as ``cluster`` and ``class``;
            negative where a node is in none.
        names: Names of the groups by the same keys; default 0, 1, ...
        title: Heading.
        layout: How nodes were placed, for the caption.
        max_edges: Number of edges that are drawn at most.

    Raises:
        ValueError: No grouping, or points that are not (N, 2).

    Example:
        >>> import torch
        >>> path = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
        >>> figure = graph_map(path, points, {"cluster": torch.tensor([0, 0, 1, 1])})
        >>> figure.axes[0].get_title(loc="left")
        'by cluster: 67% of the edges inside one'
    """
    if not groups or points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(
            f"graph_map takes points (N, 2) and a group of each, got {tuple(points.shape)} and "
            f"{len(groups)} groupings."
        )
    places = points.detach().cpu().double().numpy()
    there = np.isfinite(places).all(1)
    row, column = edge_index.cpu().numpy()
    ends = np.unique(np.sort(np.stack([row, column], 1)[row != column], 1), axis=0)
    drawn = ends[there[ends].all(1)]
    if len(drawn) > max_edges:
        drawn = drawn[np.random.default_rng(0).permutation(len(drawn))[:max_edges]]
    panels = len(groups)
    figure = titled(title, 0.95 * WIDTH / panels + 0.9)
    for place, (what, group) in enumerate(groups.items()):
        axes = figure.add_subplot(1, panels, place + 1)
        number = group.detach().cpu().numpy()
        inside = _inside(ends, number).mean() if len(ends) else 1.0
        axes.set_title(f"by {what}: {inside:.0%} of the edges inside one", loc="left", fontsize=9)
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.grid(visible=False)
        known = None if names is None else names.get(what)
        _draw(axes, places, there, drawn, number, known)
    said = f"{len(places):,} nodes, {len(ends):,} edges"
    if len(drawn) < len(ends):
        said += f", of which {len(drawn):,} are drawn"
    if not there.all():
        said += f"; nodes without a place: {(~there).sum():,}"
    figure.supxlabel(f"{said}; {layout}" if layout else said, fontsize=9, color="0.35")
    return figure


def _inside(ends: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return whether both ends of an edge are in one group."""
    first, second = group[ends].T
    return (first == second) & (first >= 0)


def _draw(
    axes: Axes,
    places: np.ndarray,
    there: np.ndarray,
    edges: np.ndarray,
    group: np.ndarray,
    names: Sequence[str] | None,
) -> None:
    count = 1 + int(group.max(initial=-1))
    colors = group_colors(count)
    inside = _inside(edges, group)
    shades = [
        to_rgba(colors[group[end]], 0.35) if same else to_rgba(BETWEEN, 0.35)
        for end, same in zip(edges[:, 0], inside, strict=True)
    ]
    axes.add_collection(LineCollection(places[edges], colors=shades, linewidths=0.4, zorder=1))
    size = 14.0 if there.sum() <= 500 else 5.0
    shown, points = group[there], places[there]
    fills = [colors[k] if k >= 0 else BETWEEN for k in shown]
    axes.scatter(points[:, 0], points[:, 1], s=size, c=fills, linewidths=0, zorder=2)
    if count > MOST_NAMED:
        return
    known = [str(k) if names is None else names[k] for k in range(count)]
    if max(map(len, known), default=0) <= SHORT:
        name_groups(axes, points, shown, known, colors)
        return
    marks = [Line2D([], [], marker="o", linestyle="none", color=c) for c in colors[:count]]
    axes.legend(
        marks,
        known,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=2,
        fontsize=7.5,
        handletextpad=0.1,
    )
