"""Tables of numbers with names, for loggers and files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor


class Table(NamedTuple):
    """Rows of texts and numbers under a caption.

    Args:
        caption: What the table shows.
        columns: Names of the columns.
        rows: Cells of each row.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]


def class_score_table(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]],
    class_names: Sequence[str] | None = None,
) -> Table:
    """Return each class's samples, precision, recall and F1, the lowest F1 first.

    Classes without a true or predicted sample are left out.

    Args:
        matrix: (K, K) counts; rows are true classes, columns predicted ones.
        class_names: Names of the K classes; default 0..K-1.

    Raises:
        ValueError: The matrix is not square, or the number of names is another.

    Example:
        >>> class_score_table([[2, 2], [0, 4]], ["cat", "dog"]).rows[1]
        ('dog', 4, 0.6666666666666666, 1.0, 0.8)
    """
    counts, names = named_matrix(matrix, class_names)
    right, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    # 0 / 0, a class that is not there, is left out
    recall, precision = right / np.maximum(true, 1), right / np.maximum(predicted, 1)
    f1 = 2 * right / np.maximum(true + predicted, 1)
    present = np.flatnonzero(true + predicted)
    order = present[np.argsort(f1[present], kind="stable")]
    rows = [
        (names[k], int(true[k]), float(precision[k]), float(recall[k]), float(f1[k])) for k in order
    ]
    columns = ("class", "samples", "precision", "recall", "F1")
    return Table(f"Scores of {len(rows)} classes", columns, rows)


def named_matrix(
    matrix: Tensor | np.ndarray | Sequence[Sequence[float]], class_names: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Return a confusion matrix as an array, and the names of its classes.

    Raises:
        ValueError: The matrix is not square, or the number of names is another.
    """
    counts = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix, dtype=np.float64)
    classes = len(counts)
    if counts.shape != (classes, classes):
        raise ValueError(f"A confusion matrix is square, got {counts.shape}.")
    names = [str(k) for k in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"{len(names)} class names do not fit a {classes} x {classes} matrix.")
    return counts, names
