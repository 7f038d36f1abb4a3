"""What every solver of few-shot tasks is given: features, and the classes of the first rows."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from framework.utilities.checks import check_at_least
from framework.utilities.precision import at_least_float32


class FewShotSolver(Protocol):
    """Finds the classes of a task's queries from its features and supports."""

    def fit_predict(self, x: Tensor, support_labels: Tensor, num_classes: int) -> Tensor:
        """Return the classes of the queries, (..., N - S) int64."""
        ...


def as_tasks(x: Tensor, support_labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return features (T, N, d), in float32 at least, and one-hot supports (T, S, K) of T tasks.

    Args:
        x: Features (T, N, d), or (N, d) of one task, the S supports first.
        support_labels: Classes of the supports (T, S), or (S,) if they are those of every task.
        num_classes: Number K of classes.

    Raises:
        ValueError: Shapes that do not fit, a class that is none of 0..K-1, or one without support.

    Example:
        >>> import torch
        >>> x, support = as_tasks(torch.zeros(5, 2), torch.tensor([0, 1]), num_classes=2)
        >>> tuple(x.shape), tuple(support.shape)
        ((1, 5, 2), (1, 2, 2))
    """
    check_at_least(1, num_classes=num_classes)
    if x.ndim not in (2, 3) or support_labels.ndim not in (1, x.ndim - 1):
        raise ValueError(
            "Features are (T, N, d) with support labels (T, S) or (S,), or (N, d) with (S,); got "
            f"{tuple(x.shape)} with {tuple(support_labels.shape)}."
        )
    x = at_least_float32(x)
    x = x if x.ndim == 3 else x[None]
    label = support_labels.expand(len(x), -1)
    supports = label.shape[1]
    if supports > x.shape[1] or len(label) != len(x):
        raise ValueError(
            f"{len(x)} tasks of {x.shape[1]} rows cannot have supports {tuple(label.shape)}: the "
            "supports are the first rows of each task."
        )
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < num_classes:
        raise ValueError(
            f"Support labels must lie in 0..{num_classes - 1}, got {int(label.min())} to "
            f"{int(label.max())}."
        )
    one_hot = F.one_hot(label, num_classes).to(x.dtype)
    if len(x) and not bool((one_hot.sum(1) > 0).all()):
        raise ValueError("Every class of a task needs a support, and a class has none.")
    return x, one_hot


def query_classes(labels: Tensor, x: Tensor, support_labels: Tensor) -> Tensor:
    """Return the classes of the queries (T, N - S), or (N - S,) if one task was given.

    Args:
        labels: Classes of all rows (T, N).
        x: Features as they were given.
        support_labels: Support labels as they were given.
    """
    queries = labels[:, support_labels.shape[-1] :]
    return queries if x.ndim == 3 else queries[0]
