"""Figures of the features of two domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from framework.figures.groups import MOST_NAMED, group_colors, name_groups
from framework.figures.style import STYLE, WIDTH, titled
from framework.figures.tables import confusion_matrix
from framework.metrics.embedding_sample import EmbeddingSnapshot

# the source lies behind the target, whose labels are what is looked for
MARKS: dict[str, dict[str, Any]] = {
    "source": {"marker": "o", "s": 14, "alpha": 0.25},
    "target": {"marker": "^", "s": 16, "alpha": 0.9},
}
UNKNOWN = "0.55"

Panel = tuple[str, Sequence[EmbeddingSnapshot]]
"""Title, and the features of the source and of the target."""


def adaptation_figures(
    values: Mapping[str, Any],
    before: Sequence[EmbeddingSnapshot] | None,
    title: str,
    class_names: Sequence[str] | None = None,
) -> dict[str, Figure]:
    """Return the figures of an evaluation, by name.

    Args:
        values: Values of ``DomainScores``.
        before: Features of source and target before training, if they are known.
        title: Title of the features in ``values``, which says when they were taken.
        class_names: Names of the classes; default 0, 1, ...
    """
    now = [values["source_features"], values["target_features"]]
    panels: list[Panel] = [] if before is None else [("before training", before)]
    panels.append((title, now))
    panels = [panel for panel in panels if _has_plane(panel)]
    figures = {"features": feature_projection(panels, class_names)} if panels else {}
    confusion = values["confusion"].cpu()
    if confusion.sum() > 0:
        figures["confusion_matrix"] = confusion_matrix(confusion, class_names)
    return figures


def _has_plane(panel: Panel) -> bool:
    _, both = panel
    return sum(len(kept.code) for kept in both) > 1 and both[0].code.shape[1] > 1


@rc_context(STYLE)
def feature_projection(panels: Sequence[Panel], class_names: Sequence[str] | None = None) -> Figure:
    """Draw the features of two domains at several times, each in the plane where they vary most.

    A plane is that of the first two principal components of both domains together. Planes of
    different times are different ones: what can be compared is how the domains lie in each.

    Args:
        panels: Title of each panel and its features of source and target, two rows or more in all;
            a label of -1 is not known.
        class_names: Names of the classes; default 0, 1, ...

    Raises:
        ValueError: There is no panel, or one with fewer than two rows or features.
    """
    from sklearn.decomposition import PCA

    if not panels or not all(map(_has_plane, panels)):
        raise ValueError("feature_projection takes panels of two rows and features or more.")
    labels = [kept.label.cpu().numpy() for _, both in panels for kept in both]
    count = 1 + max(int(label.max(initial=-1)) for label in labels)
    names = [str(k) for k in range(count)] if class_names is None else list(class_names)
    colors = group_colors(count)
    figure = titled("Features of source and target", 1.5 + WIDTH / max(2, len(panels)))
    for place, (title, both) in enumerate(panels):
        codes = [kept.code.cpu().double().numpy() for kept in both]
        plane = PCA(n_components=2, svd_solver="full")
        # where all features are one, it is without a variance to divide by
        with np.errstate(invalid="ignore"):
            plane.fit(np.concatenate(codes))
        share = np.nan_to_num(plane.explained_variance_ratio_).sum()
        axes = figure.add_subplot(1, len(panels), place + 1)
        axes.set_title(f"{title} ({share:.0%} of the variance)", loc="left", fontsize=9)
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        axes.set_xlabel("1st principal component", fontsize=8)
        if place == 0:
            axes.set_ylabel("2nd component", fontsize=8)
        points = [plane.transform(code) if len(code) else np.zeros((0, 2)) for code in codes]
        own = labels[2 * place : 2 * place + 2]
        for xy, label, mark in zip(points, own, MARKS.values(), strict=True):
            shades = [colors[k] if k >= 0 else UNKNOWN for k in label]
            axes.scatter(xy[:, 0], xy[:, 1], c=shades, linewidths=0, **mark)
    if count <= MOST_NAMED:
        name_groups(axes, np.concatenate(points), np.concatenate(own), names, colors)
    handles = [
        Line2D([], [], linestyle="none", color="0.3", marker=mark["marker"], alpha=mark["alpha"])
        for mark in MARKS.values()
    ]
    caption = "Each point is an image, its color the true class"
    if any((label < 0).any() for label in labels):
        caption += ", gray where it is not known"
    caption += (
        ".\nEach panel shows the first two principal components of both domains' features together."
    )
    legend = figure.legend(
        handles,
        list(MARKS),
        loc="outside lower center",
        ncols=len(handles),
        handletextpad=0.1,
        title=caption,
        title_fontsize=9,
    )
    legend.get_title().set(color="0.35", multialignment="center")
    return figure
