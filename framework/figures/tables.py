"""Tables of counts, such as confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from framework.figures.score_table import class_score_table, named_matrix
from framework.figures.style import STYLE, titled


def confusion_matrix(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]],
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draw a confusion matrix: the color is the share of the true class, the number the count.

    Args:
        matrix: (K, K) counts; rows are true classes, columns predicted ones.
        class_names: Names of the K classes; default 0..K-1.

    Raises:
        ValueError: the matrix is not square, or the number of names is another.
    """
    counts, names = named_matrix(matrix, class_names)
    total, right = counts.sum(), np.trace(counts)
    return count_matrix(
        counts,
        (names, names),
        axis_names=("true class", "predicted class"),
        title="Confusion matrix",
        subtitle=f"{right:,.0f} of {total:,.0f} samples are classified correctly"
        f" ({right / max(total, 1):.1%})",
    )


@rc_context(STYLE)
def class_scores(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]],
    class_names: Sequence[str] | None = None,
    rows: int = 30,
) -> Figure:
    """Draw a table of each class's samples, precision, recall and F1, the lowest F1 first.

    Args:
        matrix: (K, K) counts; rows are true classes, columns predicted ones.
        class_names: Names of the K classes; default 0..K-1.
        rows: Number of classes shown at most.

    Raises:
        ValueError: The matrix is not square, or the number of names is another.
    """
    scores = class_score_table(matrix, class_names)
    cells = [
        [name, f"{samples:,}", *(f"{score:.3f}" for score in numbers)]
        for name, samples, *numbers in scores.rows[:rows]
    ]
    shown = f"the {len(cells)} lowest of " if len(cells) < len(scores.rows) else ""
    figure = titled(f"Scores of {shown}{len(scores.rows)} classes", 0.8 + 0.25 * (len(cells) + 1))
    axes = figure.add_subplot()
    axes.set_axis_off()
    table = axes.table(
        cells or [[""] * len(scores.columns)],
        colLabels=scores.columns,
        colLoc="right",
        loc="center",
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 1.3)
    for cell in table.get_celld().values():
        cell.set_edgecolor("0.85")
    return figure


@rc_context(STYLE)
def count_matrix(
    counts: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    axis_names: tuple[str, str],
    title: str,
    subtitle: str,
) -> Figure:
    """Draw a table of counts: the color is the share of the row, the number the count.

    Args:
        counts: (R, C); the last axis runs to the right.
        names: Names of the R rows and of the C columns.
        axis_names: Meaning of a row and of a column.
        title: Title of the figure.
        subtitle: One line on what the table says.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # cells are squares, so that a wide table is low
    height = min(6.8, max(3.2, 1.4 + 6.2 * len(counts) / counts.shape[1]))
    figure = titled(title, height)
    axes = figure.add_subplot()
    axes.set_title(subtitle, fontsize=9, color="0.35")
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, format="{x:.0%}")
    bar.set_label(f"share of the {axis_names[0]}")
    bar.outline.set_visible(False)
    rows, columns = (range(0, len(axis), math.ceil(len(axis) / 30)) for axis in names)
    turned = max(len(name) for name in names[1]) * len(columns) > 75
    axes.set_xticks(
        columns,
        [names[1][k] for k in columns],
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_yticks(rows, [names[0][k] for k in rows])
    axes.tick_params(length=0)
    axes.set_ylabel(axis_names[0])
    axes.set_xlabel(axis_names[1])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    largest = max(counts.shape)
    if largest <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            axes.text(
                column,
                row,
                f"{counts[row, column]:,.0f}",
                ha="center",
                va="center",
                fontsize=9 if largest <= 12 else 7,
                color="white" if share[row, column] > 0.55 else "0.15",
            )
    return figure
