"""Figures of clusters beside classes: what they show, and where."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from framework.clustering.figures import cluster_confusion, stage_comparison
from framework.figures.style import COLORS

# cluster 0 is class c, 1 is a, 2 gets no class, 3 is b with a single sample of it
TABLE = torch.tensor([[0, 1, 9], [8, 0, 2], [1, 0, 7], [0, 1, 1]])
NAMES = ["a", "b", "c"]


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def pixels(axes: Axes) -> np.ndarray:
    (image,) = axes.images
    assert isinstance(image, AxesImage)
    return np.asarray(image.get_array())


def test_confusion_has_the_matched_clusters_on_the_diagonal() -> None:
    figure = cluster_confusion(TABLE, NAMES)
    axes = figure.axes[0]
    assert labels(axes) == NAMES
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "3", "0", "2"]
    ordered = TABLE.T[:, [1, 3, 0, 2]]
    np.testing.assert_allclose(pixels(axes), ordered / ordered.sum(1, keepdim=True))
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers[(0, 0)] == "8"
    assert numbers[(3, 2)] == "7"
    assert len(numbers) == int((TABLE > 0).sum())
    outlined = [patch.get_xy() for patch in axes.patches]
    assert outlined == [(-0.5, -0.5), (0.5, 0.5), (1.5, 1.5)]
    assert "18 of 30 samples" in axes.get_title()
    assert "60.0%" in axes.get_title()
    assert axes.get_ylabel() == "true class"
    assert axes.get_xlabel().startswith("cluster")


def test_a_wide_confusion_is_low() -> None:
    wide = cluster_confusion(torch.ones(40, 5, dtype=torch.int64))
    square = cluster_confusion(torch.ones(5, 5, dtype=torch.int64))
    assert wide.get_figheight() < 0.6 * square.get_figheight()
    assert [label.get_text() for label in wide.axes[0].get_yticklabels()] == list("01234")


STAGES = {
    "k-means on pixels": {"accuracy": 0.79, "nmi_geometric": 0.742},
    "DEC-type target": {"accuracy": 0.85},
    "DEPICT": {"accuracy": 0.866, "nmi_geometric": 0.847},
}


def test_every_stage_stands_in_its_row() -> None:
    figure = stage_comparison(STAGES)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["clustering accuracy", "NMI, geometric mean"]
    accuracy, nmi = figure.axes
    assert labels(accuracy) == list(STAGES)
    # the first at the top
    assert accuracy.get_ylim() == (2.5, -0.5)
    assert nmi.get_ylim() == accuracy.get_ylim()
    for axes, points in (
        (accuracy, [(0.79, 0), (0.85, 1), (0.866, 2)]),
        (nmi, [(0.742, 0), (0.847, 2)]),
    ):
        drawn = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
        assert drawn == points
        assert [text.get_text() for text in axes.texts] == [f"{x:.3f}" for x, _ in points]
        colors = [line.get_color() for line in axes.lines]
        assert colors == [COLORS[0]] * (len(points) - 1) + [COLORS[1]]
    assert "the best of each is orange" in figure.get_supxlabel()


def test_one_stage_alone_is_drawn() -> None:
    (axes,) = stage_comparison({"DEPICT": {"some_score": 0.5}}).axes
    assert axes.get_title(loc="left") == "some score"
    assert axes.get_xlim()[0] < 0.5 < axes.get_xlim()[1]
