"""Figures of a clustering beside the classes of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from framework.clustering.contingency_table import match_clusters
from framework.figures.score_table import Table
from framework.figures.style import COLORS, STYLE, titled
from framework.figures.tables import count_matrix

METRIC_NAMES = {
    "accuracy": "clustering accuracy",
    "nmi_geometric": "NMI, geometric mean",
    "nmi_arithmetic": "NMI, arithmetic mean",
    "adjusted_rand": "adjusted Rand index",
    "f1": "F1, mean over classes",
}
"""Titles of scores that compare clusters with classes."""


@rc_context(STYLE)
def cluster_confusion(table: Tensor, class_names: Sequence[str] | None = None) -> Figure:
    """Draw the clusters of the samples of every class.

    Clusters are in the order of the classes that are matched with them one to one, so that a good
    clustering lies on the diagonal; the matched cells are outlined.

    Args:
        table: Number of samples per cluster and class, (K, C).
        class_names: Names of the C classes; default 0..C-1.
    """
    match = match_clusters(table).tolist()
    order = matched_order(match)
    counts = table.cpu().double().numpy().T[:, order]
    pairs = [(match[k], place) for place, k in enumerate(order) if match[k] >= 0]
    right, total = sum(counts[pair] for pair in pairs), counts.sum()
    figure = count_matrix(
        counts,
        (group_names(class_names, len(counts)), [str(k) for k in order]),
        axis_names=("true class", "cluster, in the order of the class that is matched with it"),
        title="Clusters and true classes",
        subtitle=f"{right:,.0f} of {total:,.0f} samples are in the cluster matched with their class"
        f" ({right / max(total, 1):.1%}; outlined)",
    )
    for row, column in pairs:
        corner = (column - 0.5, row - 0.5)
        outline = Rectangle(
            corner, 1, 1, fill=False, edgecolor=COLORS[1], linewidth=1.2, clip_on=False
        )
        figure.axes[0].add_patch(outline)
    return figure


@rc_context(STYLE)
def stage_comparison(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how well the clusters of every stage fit the classes, one panel per metric.

    Args:
        rows: Values by metric, of each stage, the first stage at the top; one may lack metrics.
    """
    stages = list(rows)
    metrics = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = titled("How well the clusters fit the classes", 1.2 + 0.36 * len(stages))
    figure.supxlabel("higher is better; the best of each is orange", fontsize=9, color="0.35")
    for place, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), place + 1)
        title = METRIC_NAMES.get(metric, metric.replace("_", " "))
        axes.set_title(title, loc="left", fontsize=8.5 if len(metrics) > 3 else None)
        known = {y: row[metric] for y, row in enumerate(rows.values()) if metric in row}
        low, high = min(known.values()), max(known.values())
        margin = 0.1 * (high - low) or 0.01
        for y, value in known.items():
            # what shows the same digits is as good
            color = COLORS[1] if high - value < 5e-4 else COLORS[0]
            axes.plot([value], [y], marker="o", markersize=7, color=color)
            axes.annotate(
                f"{value:.3f}",
                (value, y),
                xytext=(7, 0),
                textcoords="offset points",
                va="center_baseline",
                color=color,
                fontsize=8.5,
            )
        # the last number stands to the right of its point
        axes.set_xlim(low - margin, high + 3.5 * margin)
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.set_yticks(range(len(stages)), stages if place == 0 else [""] * len(stages))
        ticks = MaxNLocator(4 if len(metrics) < 4 else 2).tick_values(low - margin, high + margin)
        # no score is above 1, though the room for the numbers may be
        axes.set_xticks([tick for tick in ticks if low - margin <= tick <= 1])
        axes.tick_params(length=0)
    return figure


def cluster_table(
    sizes: Tensor, table: Tensor | None, class_names: Sequence[str] | None = None
) -> Table:
    """Return the samples of each cluster and, where labels are known, the class it stands for.

    Args:
        sizes: (K,) samples of each cluster.
        table: (K, C) counts of ``ContingencyTable``; None without labels.
        class_names: Names of the C classes; default 0..C-1.
    """
    counts = [int(size) for size in sizes]
    caption = f"{sum(counts):,} samples in {len(counts)} clusters"
    if table is None:
        return Table(caption, ("cluster", "samples"), list(enumerate(counts)))
    names = group_names(class_names, table.shape[1])
    rows = [
        (k, counts[k], names[c] if c >= 0 else "none", int(table[k, c]) if c >= 0 else 0)
        for k, c in enumerate(match_clusters(table).tolist())
    ]
    return Table(caption, ("cluster", "samples", "class", "samples of the class"), rows)


def matched_order(match: Sequence[int]) -> list[int]:
    """Return the clusters in the order of their classes, those without one last."""
    return sorted(range(len(match)), key=lambda k: (match[k] < 0, match[k], k))


def group_names(names: Sequence[str] | None, count: int) -> list[str]:
    """Return the names of classes or clusters, which are 0, 1, ... where there are none."""
    return [str(k) for k in range(count)] if names is None else list(names)
