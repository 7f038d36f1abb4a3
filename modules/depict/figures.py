"""Figures of a deep clustering."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from torch import Tensor

from framework.clustering.contingency_table import match_clusters
from framework.clustering.figures import (
    cluster_confusion,
    group_names,
    matched_order,
    stage_comparison,
)
from framework.figures.groups import MOST_NAMED, group_colors, name_groups
from framework.figures.style import STYLE, WIDTH, titled
from modules.depict.snapshots import Snapshots

MAX_PANELS = 8

# in the order of the figure
STAGE_NAMES = {
    "kmeans_pixels": "k-means on pixels",
    "kmeans_code": "k-means on the code",
    "acpic_code": "AC-PIC on the code",
    "head": "after the head",
    "dec": "DEC-type target",
}

SCORES = ("accuracy", "nmi_geometric")

Snapshot = tuple[str, Tensor, Tensor]
"""Title, codes (n, D) and group (n,) of each."""


def evaluation_figures(
    values: Mapping[str, Any],
    stages: Mapping[str, Mapping[str, float]],
    snapshots: Snapshots | None = None,
    class_names: Sequence[str] | None = None,
    current: str = "DEPICT",
) -> dict[str, Figure]:
    """Return all figures of an evaluation, by name.

    Those that compare with classes are missing where the data has no labels.

    Args:
        values: Values of ``cluster_metrics``.
        stages: Scores ``accuracy`` and ``nmi_geometric`` of every stage that is over.
        snapshots: Snapshots of the codes; without any there is no figure of them.
        class_names: Names of the classes; default 0, 1, ...
        current: Name of the stage that ``values`` belong to.
    """
    table = values.get("confusion")
    images, filled = values["samples"]
    figures = {"clusters": cluster_sheet(images, filled, values["sizes"], table, class_names)}
    names = None
    if table is not None:
        names = group_names(class_names, table.shape[1])
        figures["confusion_matrix"] = cluster_confusion(table, names)
        now = {name: float(values[name]) for name in SCORES}
        known = {STAGE_NAMES[name]: stages[name] for name in STAGE_NAMES if name in stages}
        if known:
            figures["stages"] = stage_comparison({**known, current: now})
    # one sample has no plane
    if snapshots is not None and snapshots.kept and len(snapshots.kept[-1][1].code) > 1:
        colored = [
            (title, kept.code, kept.cluster if table is None else kept.label)
            for title, kept in snapshots.kept
        ]
        figures["codes"] = code_projection(colored, names)
    return figures


@rc_context(STYLE)
def cluster_sheet(
    images: Tensor,
    filled: Tensor,
    sizes: Tensor,
    table: Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw one row of images per cluster, with its number and size at the left.

    Where the classes are known, a row also says how much of the cluster is of the class matched
    with it, and the rows are in the order of these classes.

    Args:
        images: P images of each cluster, (K, P, C, H, W) in [-1, 1], the most certain first; three
            channels are red, green and blue, the mean of any other number is drawn as gray.
        filled: Whether there is such an image, (K, P) bool.
        sizes: Number of samples in each cluster, (K,).
        table: Number of samples per cluster and class, (K, C).
        class_names: Names of the C classes; default 0..C-1.
    """
    match = [-1] * len(images) if table is None else match_clusters(table).tolist()
    order = matched_order(match)
    samples, clusters = int(sizes.sum()), len(images)
    blocks = 1 if clusters <= 12 else 2
    labels = [_row_label(k, sizes, table, match[k], class_names) for k in order]
    if blocks > 1:
        labels = [label.replace("\n", ": ", 1) for label in labels]
    caption = (
        f"{samples:,} images in {clusters} clusters; each row shows those that are most certain to"
        " be in it."
    )
    if table is not None:
        caption += (
            "\nMatched: the class of the cluster in the best one-to-one assignment, and how much of"
            " the cluster is of it."
        )
    rows = math.ceil(clusters / blocks)
    parts = [slice(block * rows, (block + 1) * rows) for block in range(blocks)]
    pixels = _pixels(images, filled)[order]
    sheets = [_sheet(pixels[part]) for part in parts]
    # in inches, as a layout engine does not know how an image of fixed shape shrinks
    fontsize = 8.0 if blocks == 1 else 6.5
    beside = 0.15 + max(_text_width(label, fontsize) for label in labels)
    wide = WIDTH / blocks - beside - 0.1
    scale = wide / sheets[0].shape[1]
    above, below = 0.4, 0.5
    tall = above + scale * len(sheets[0]) + below
    figure = titled("What is in each cluster", tall, layout=None, y=1 - 0.1 / tall)
    figure.supxlabel(caption, fontsize=9, color="0.35", y=0.08 / tall)
    for block, (part, sheet) in enumerate(zip(parts, sheets, strict=True)):
        high = scale * len(sheet)
        left, bottom = block * WIDTH / blocks + beside, tall - above - high
        axes = figure.add_axes((left / WIDTH, bottom / tall, wide / WIDTH, high / tall))
        axes.imshow(sheet, aspect="auto")
        shown = labels[part]
        step = len(sheet) / len(shown)
        # the gap below a row does not count
        centers = step * np.arange(len(shown)) + (step - _gap(images.shape[-1])) / 2 - 0.5
        axes.set_yticks(centers, shown, fontsize=fontsize)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def _row_label(
    cluster: int,
    sizes: Tensor,
    table: Tensor | None,
    match: int,
    class_names: Sequence[str] | None,
) -> str:
    size = int(sizes[cluster])
    label = f"cluster {cluster}\n{size:,} images ({size / max(int(sizes.sum()), 1):.1%})"
    if table is None or match < 0:
        return label
    name = group_names(class_names, table.shape[1])[match]
    if len(name) > 20:
        name = f"{name[:19]}…"
    return f"{label}\nmatched: {name} ({int(table[cluster, match]) / size:.0%} right)"


def _text_width(text: str, fontsize: float) -> float:
    """Return how wide the longest line is, in inches."""
    lines = [TextPath((0, 0), line, size=fontsize) for line in text.split("\n")]
    return max(line.get_extents().width for line in lines) / 72


def _pixels(images: Tensor, filled: Tensor) -> np.ndarray:
    """Return (K, P, H, W, 3) in [0, 1], nearly white where there is no image."""
    values = images.detach().cpu().float().numpy().transpose(0, 1, 3, 4, 2)
    if values.shape[-1] != 3:
        values = values.mean(-1, keepdims=True).repeat(3, axis=-1)
    shade = ((values + 1) / 2).clip(0, 1)
    return np.where(filled.cpu().numpy()[:, :, None, None, None], shade, 0.95)


def _sheet(pixels: np.ndarray) -> np.ndarray:
    """Join (K, P, H, W, 3) to one image, as a thousand axes would take a minute to draw."""
    rows, columns, height, width, _ = pixels.shape
    gap = _gap(width)
    gaps = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    tiles = np.pad(pixels, gaps, constant_values=1.0).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * (height + gap), columns * (width + gap), 3)


def _gap(width: int) -> int:
    return max(1, round(width / 14))


@rc_context(STYLE)
def code_projection(
    snapshots: Sequence[Snapshot], class_names: Sequence[str] | None = None
) -> Figure:
    """Draw the codes at several times of the training, projected on one plane.

    The plane is that of the first two principal components of the last snapshot, so that the panels
    can be compared. Of more than eight snapshots, eight are drawn: the first, the last and some
    between them.

    Args:
        snapshots: Title of each snapshot, codes (n, D) and the groups (n,) that color them;
            negative groups are gray.
        class_names: Names of the groups, which then are classes; without names they are clusters.

    Raises:
        ValueError: There is no snapshot, or the last has fewer than two rows or columns.
    """
    from sklearn.decomposition import PCA

    if not snapshots or min(snapshots[-1][1].shape) < 2:
        raise ValueError(
            "code_projection takes snapshots, the last of two rows and columns or more."
        )
    steps = np.linspace(0, len(snapshots) - 1, min(MAX_PANELS, len(snapshots))).round()
    panels = [snapshots[int(step)] for step in steps]
    codes = [code.cpu().double().numpy() for _, code, _ in panels]
    plane = PCA(n_components=2, svd_solver="full")
    # where all codes are one, it is without a variance to divide by
    with np.errstate(invalid="ignore"):
        plane.fit(codes[-1])
    points = [plane.transform(code) for code in codes]
    groups = [group.cpu().numpy() for _, _, group in panels]
    count = 1 + max(int(group.max(initial=-1)) for group in groups)
    colors, names = group_colors(count), group_names(class_names, count)
    lines = math.ceil(len(panels) / 4)
    columns = math.ceil(len(panels) / lines)
    every = np.concatenate(points)
    low, high = every.min(0), every.max(0)
    margin = 0.04 * float((high - low).max()) or 1.0
    low, high = low - margin, high + margin
    side = min(WIDTH / columns, 4.0)
    tall = side * float(np.clip((high - low)[1] / (high - low)[0], 0.4, 1.2))
    figure = titled("Codes in the course of training", 1.3 + (tall + 0.25) * lines)
    what = "cluster" if class_names is None else "true class"
    share = np.nan_to_num(plane.explained_variance_ratio_).sum()
    caption = (
        f"Each point is an image, its color the {what}. All panels show the plane of the first two"
        f"\nprincipal components of the last one, which hold {share:.0%} of its variance."
    )
    for place, (title, _, _) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlim(low[0], high[0])
        axes.set_ylim(low[1], high[1])
        axes.set_aspect("equal")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        xy, group = points[place], groups[place]
        shades = [colors[k] if k >= 0 else "0.75" for k in group]
        axes.scatter(xy[:, 0], xy[:, 1], s=6, c=shades, linewidths=0, alpha=0.7)
        if place % columns == 0:
            axes.set_ylabel("2nd component", fontsize=8)
        if place >= len(panels) - columns:
            axes.set_xlabel("1st principal component", fontsize=8)
    handles = []
    if count <= MOST_NAMED:
        name_groups(axes, points[-1], groups[-1], names, colors)
        handles = [Line2D([], [], marker="o", linestyle="none", color=c) for c in colors[:count]]
    legend = figure.legend(
        handles,
        names[: len(handles)],
        loc="outside lower center",
        ncols=max(1, min(10, len(handles))),
        handletextpad=0.1,
        title=caption,
        title_fontsize=9,
    )
    legend.get_title().set(color="0.35", multialignment="center")
    return figure
