"""What a person sees of the weights of terms."""

from __future__ import annotations

import numpy as np
import pytest

from framework.figures.curves import learning_curves
from framework.figures.preference import cosine_curves, preference_figures, weight_trajectory
from framework.figures.style import save_png

pytestmark = pytest.mark.pictures

PREFIX = "train/preference/"


def rows(*names: str) -> list[dict]:
    weights = {f"{PREFIX}weight/{name}": str(k + 1) for k, name in enumerate(names)}
    pairs = {f"{PREFIX}cosine/{names[0]}/{name}": "-0.5" for name in names[1:]}
    return [
        {"epoch": "0", "step": "0", "train/loss": "1.0", **weights, **pairs},
        {"epoch": "0", "step": "1", "train/loss": "0.5"},
        {"epoch": "0", "step": "2", "train/loss": "0.4", **weights, **pairs},
    ]


def test_a_plain_run_has_no_such_figures():
    assert preference_figures([{"step": "0", "train/loss": "1.0"}]) == {}
    assert preference_figures(rows("only")) == {}


def test_weights_and_cosines_are_drawn_at_the_steps_that_have_them():
    figures = preference_figures(rows("a", "b", "c"))
    assert sorted(figures) == ["preference_cosines", "preference_weights"]
    (_, *lines) = figures["preference_cosines"].axes[0].lines
    assert [line.get_label() for line in lines] == ["a and b", "a and c"]
    assert lines[0].get_xdata().tolist() == [1, 3]
    assert lines[0].get_ydata().tolist() == [-0.5, -0.5]
    assert "100% below 0" in figures["preference_cosines"].get_suptitle()
    assert "a 0.17, b 0.33, c 0.50" in figures["preference_weights"].get_suptitle()


def test_a_vertex_of_the_simplex_is_a_corner():
    for terms in (2, 3, 5):
        figure = weight_trajectory(np.arange(terms), list("abcde")[:terms], np.eye(terms))
        points = figure.axes[1].collections[0].get_offsets()
        corners = figure.axes[1].lines[0].get_xydata()[:terms]
        np.testing.assert_allclose(points, corners)


def test_the_uniform_weights_are_the_middle_and_nothing_counts_as_none():
    values = np.array([[0.2, 0.2, 0.2], [np.nan, 1.0, np.nan]])
    figure = weight_trajectory(np.array([1.0, 2.0]), ["a", "b", "c"], values)
    points = figure.axes[1].collections[0].get_offsets()
    np.testing.assert_allclose(points[0], [0, 0], atol=1e-12)
    np.testing.assert_allclose(points[1], figure.axes[1].lines[0].get_xydata()[1])


def test_a_pair_may_be_missing_at_some_steps(tmp_path):
    values = np.array([[0.5, np.nan], [0.1, -0.2]])
    figure = cosine_curves(np.array([1.0, 2.0]), ["a/b", "a/c"], values)
    assert figure.axes[0].lines[2].get_xdata().tolist() == [2]
    save_png(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_the_learning_curves_leave_them_out():
    titles = [axes.get_title(loc="left") for axes in learning_curves(rows("a", "b")).axes]
    assert titles == ["loss"]
