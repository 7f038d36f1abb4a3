"""Points are the principal components, and colors say classes and values."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from framework.figures.embedding_map import UNKNOWN, embedding_map, plane_points
from framework.figures.groups import group_colors
from framework.figures.style import caption_of, save_png

pytestmark = pytest.mark.pictures


def test_points_are_the_first_two_principal_components():
    from sklearn.decomposition import PCA

    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)
    points, said = plane_points(rows)
    model = PCA(2).fit(rows.double().numpy())
    expected = model.transform(rows.double().numpy())
    expected *= np.sign(expected[0] * points[0])
    np.testing.assert_allclose(points, expected, atol=1e-9)
    share = model.explained_variance_ratio_.sum()
    assert said == f"first two principal components, {share:.0%} of the variance"


def test_points_do_not_depend_on_the_order_of_rows():
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    points, _ = plane_points(rows)
    # of the same rows in another order the components are the same, up to rounding
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(plane_points(rows[order])[0], points[order], atol=1e-9)


def test_few_columns_and_equal_rows_have_points():
    points, said = plane_points(torch.tensor([[1.0], [3.0]]))
    np.testing.assert_allclose(points, [[-1, 0], [1, 0]], atol=1e-9)
    assert "100%" in said
    points, said = plane_points(torch.ones(3, 2))
    assert not points.any()
    assert "100%" in said


def test_a_panel_by_class_and_one_for_each_value(tmp_path):
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([0, 0, 0, 2, 2, 2, 1, -1, 1])
    temperature = torch.tensor([0.1, 0.2, 0.3, torch.nan, 0.5, 0.6, 0.7, 0.8, 0.9])
    figure = embedding_map(rows, label, {"temperature": temperature}, ["a", "b", "c"])
    first, second, bar = figure.axes
    points, _ = plane_points(rows)
    (dots,) = first.collections
    np.testing.assert_allclose(dots.get_offsets(), points)
    colors = [to_hex(color) for color in dots.get_facecolor()]
    shades = group_colors(3)
    assert colors == [to_hex(shades[k] if k >= 0 else UNKNOWN) for k in label.tolist()]
    assert [text.get_text() for text in first.texts] == ["a", "b", "c"]
    gray, shown = second.collections
    np.testing.assert_allclose(gray.get_offsets(), points[3:4])
    np.testing.assert_allclose(shown.get_array(), temperature[[0, 1, 2, 4, 5, 6, 7, 8]], rtol=1e-6)
    assert bar.get_xlabel() == "temperature"
    assert first.get_xlim() == second.get_xlim()
    assert caption_of(figure) == "Embeddings: by class; by temperature"
    assert "9 samples" in figure.get_supxlabel()
    save_png(figure, tmp_path / "map.png")


def test_rows_that_are_not_finite_are_left_out():
    rows = torch.rand(5, 3)
    rows[1, 2], rows[3, 0] = torch.nan, torch.inf
    figure = embedding_map(rows, torch.tensor([0, 1, 0, 1, 0]), {"x": torch.arange(5.0)})
    assert len(figure.axes[0].collections[0].get_offsets()) == 3
    np.testing.assert_array_equal(figure.axes[1].collections[0].get_array(), [0, 2, 4])


def test_a_map_without_colors_is_gray():
    (axes,) = embedding_map(torch.rand(4, 2)).axes
    assert {to_hex(color) for color in axes.collections[0].get_facecolor()} == {to_hex(UNKNOWN)}


def test_what_cannot_be_drawn_is_refused():
    for rows in (torch.rand(1, 3), torch.rand(4, 0), torch.full((4, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"embedding must be \(N, D\) of 2 rows"):
            embedding_map(rows)
