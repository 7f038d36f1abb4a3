"""Regions are those of the classifier, and every point is drawn in the color of its class."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from framework.figures.decision_regions import SIDE, decision_regions
from framework.figures.groups import group_colors

pytestmark = pytest.mark.pictures


def right_of_zero(x):
    return torch.stack([-x[:, 0], x[:, 0]], 1).mul(50).softmax(1)


def test_the_plane_is_painted_by_the_class_that_is_decided():
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.5, 1.0]])
    figure = decision_regions(right_of_zero, points, torch.tensor([0, 1, -1]), ["left", "right"])
    axes = figure.axes[0]
    paint = axes.images[0].get_array()
    assert paint.shape == (SIDE, SIDE, 3)
    pale = [1 - 0.45 * (1 - np.array(to_rgb(color))) for color in group_colors(2)]
    # far from the boundary the probability is 1
    np.testing.assert_allclose(paint[:, 0], np.tile(pale[0], (SIDE, 1)), atol=1e-6)
    np.testing.assert_allclose(paint[:, -1], np.tile(pale[1], (SIDE, 1)), atol=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["left", "right"]
    assert axes.get_title(loc="left") == "2 points with a class and 1 without"


def test_one_class_everywhere_has_no_boundary():
    points = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    figure = decision_regions(
        lambda x: torch.tensor([0.9, 0.1]).expand(len(x), 2), points, torch.tensor([0, 1])
    )
    # the points without a class, and those of two
    assert len(figure.axes[0].collections) == 3


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points must be \(N, 2\) to be drawn, got \(3, 4\)"):
        decision_regions(right_of_zero, torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
