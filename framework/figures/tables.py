"""Tables of counts, such as confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

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
    counts, names = _named(matrix, class_names)
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
    counts, names = _named(matrix, class_names)
    right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    # 0 / 0, a class that is not there, is left out
    recall, precision = right / np.maximum(true, 1), right / np.maximum(predicted, 1)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    present = np.flatnonzero(true + predicted)
    order = present[np.argsort(f1[present], kind="stable")][:rows]
    cells = [
        [names[k], f"{true[k]:,.0f}", *(f"{score[k]:.3f}" for score in (precision, recall, f1))]
        for k in order
    ]
    shown = f"the {len(order)} lowest of " if len(order) < len(present) else ""
    figure = titled(f"Scores of {shown}{len(present)} classes", 0.8 + 0.25 * (len(cells) + 1))
    axes = figure.add_subplot()
    axes.set_axis_off()
    heads = ["class", "samples", "precision", "recall", "F1"]
    table = axes.table(
        cells or [[""] * len(heads)],
        colLabels=heads,
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


def _named(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]], class_names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Return a confusion matrix as an array, and the names of its classes."""
    counts = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, dtype=np.float64)
    classes = len(counts)
    if counts.shape != (classes, classes):
        raise ValueError(f"A confusion matrix is square, got {counts.shape}.")
    names = [str(k) for k in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"{len(names)} class names do not fit a {classes} x {classes} matrix.")
    return counts, names


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
