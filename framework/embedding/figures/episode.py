"""Figures of few-shot episodes: one of them in two dimensions, and accuracies by lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from framework.embedding.metrics.first_episode import Episode
from framework.figures.style import COLORS, STYLE, WIDTH, titled


def principal_plane(features: Tensor) -> Tensor:
    """Return rows in the plane of their two largest principal components, (N, 2), in float32.

    The largest entry of a component is positive, so that the picture is never mirrored.

    Args:
        features: Rows (N, d).

    Example:
        >>> principal_plane(torch.tensor([[0.0], [1.0], [2.0]]))[:, 0]
        tensor([-1.,  0.,  1.])
    """
    centered = features.double() - features.double().mean(0)
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    points = centered @ (axes * torch.where(largest < 0, -1.0, 1.0)).T
    return torch.nn.functional.pad(points, (0, 2 - points.shape[1])).float()


@rc_context(STYLE)
def episode_map(episode: Episode, solver: str) -> Figure:
    """Draw an episode in the plane of its principal components, colored by what was found.

    Lines lead from each row to the mean of the rows that were assigned to the same class; supports
    are stars, and a query that is wrong is ringed in the color of its own class.

    Args:
        episode: Features and classes.
        solver: Name of the solver.

    Example:
        >>> rows = torch.rand(6, 4)
        >>> label = torch.tensor([0, 1, 0, 1, 0, 1])
        >>> len(episode_map(Episode(rows, label, label, 2), "slk_ms").axes)
        1
    """
    points = principal_plane(episode.features.cpu())
    label, found = episode.label.cpu(), episode.predicted.cpu()
    figure = titled(f"An episode as {solver} sees it", 0.75 * WIDTH, 0.85 * WIDTH)
    axes = figure.add_subplot()
    query = torch.arange(len(label)) >= episode.supports
    for k in label.unique().tolist():
        color, own = COLORS[k % len(COLORS)], found == k
        center = points[own].mean(0)
        for x, y in points[own].tolist():
            axes.plot([float(center[0]), x], [float(center[1]), y], color=color, lw=0.5, alpha=0.4)
        axes.scatter(*_xy(points[own & query]), s=22, color=color, linewidths=0)
        axes.scatter(*_xy(points[own & ~query]), s=130, marker="*", color=color, ec="black")
        axes.scatter(*_xy(center), s=70, marker="X", color=color, ec="white", zorder=3)
        wrong = points[(label == k) & (found != k)]
        axes.scatter(*_xy(wrong), s=60, facecolors="none", edgecolors=color, linewidths=1.5)
    right = (label == found)[query].float().mean() if query.any() else torch.ones(())
    axes.set_title(
        f"{float(right):.0%} of the {int(query.sum())} queries are right. Color: the class found; "
        "star: support;\ncross: mean of a class; ring: the class of a query that is wrong",
        loc="left",
        fontsize=9,
    )
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    return figure


def _xy(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return points[..., 0].numpy(), points[..., 1].numpy()


@rc_context(STYLE)
def accuracy_by_lambda(curves: Mapping[str, Tensor], lambdas: Sequence[float]) -> Figure:
    """Draw the accuracy of solvers over the weight of the Laplacian term.

    Args:
        curves: Accuracies (L,) by the name of the solver.
        lambdas: Weights (L,).

    Example:
        >>> len(accuracy_by_lambda({"slk_ms": torch.rand(3)}, [0.1, 0.5, 1.0]).axes)
        1
    """
    figure = titled("Accuracy by the weight of the Laplacian term", 0.5 * WIDTH)
    axes = figure.add_subplot()
    for (name, curve), color in zip(curves.items(), COLORS, strict=False):
        axes.plot(list(lambdas), curve.tolist(), marker="o", ms=4, color=color, label=name)
    axes.set_xlabel("lambda")
    axes.set_ylabel("share of the queries that is right")
    axes.legend()
    return figure
