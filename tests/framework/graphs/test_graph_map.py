"""Maps of graphs: what is drawn, what is left out, and what is said of it."""

from __future__ import annotations

import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from framework.graphs import graph_map

pytestmark = pytest.mark.pictures

PATH = torch.tensor([[0, 1, 1, 2, 3, 3], [1, 0, 2, 3, 2, 3]])
POINTS = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 0.0], [3.0, 1.0]])
GROUP = torch.tensor([0, 0, 1, -1])


def lines(figure: Figure, panel: int = 0) -> LineCollection:
    """Return the edges of a panel."""
    return next(c for c in figure.axes[panel].collections if isinstance(c, LineCollection))


def test_each_edge_is_drawn_once_in_the_color_of_its_group() -> None:
    figure = graph_map(PATH, POINTS, {"cluster": GROUP})
    drawn = lines(figure)
    assert [segment.tolist() for segment in drawn.get_segments()] == [
        [[0, 0], [1, 2]],
        [[1, 2], [2, 0]],
        [[2, 0], [3, 1]],
    ]
    gray = drawn.get_colors()[1][0]
    assert [color[0] == gray for color in drawn.get_colors()] == [False, True, True]
    assert figure.axes[0].get_title(loc="left") == "by cluster: 33% of the edges inside one"
    assert figure.get_supxlabel() == "4 nodes, 3 edges"


def test_every_grouping_is_a_panel_with_its_names() -> None:
    names = {"class": ["cats", "sea horses"]}
    figure = graph_map(PATH, POINTS, {"cluster": GROUP, "class": GROUP.clamp(min=0)}, names)
    assert len(figure.axes) == 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1"]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["cats", "sea horses"]


def test_many_edges_are_thinned_and_nodes_without_a_place_left_out() -> None:
    points = POINTS.clone()
    points[3] = torch.nan
    figure = graph_map(PATH, points, {"cluster": GROUP}, layout="by hand", max_edges=1)
    assert len(lines(figure).get_segments()) == 1
    said = "4 nodes, 3 edges, of which 1 are drawn; nodes without a place: 1; by hand"
    assert figure.get_supxlabel() == said


def test_graph_without_edges_is_drawn() -> None:
    figure = graph_map(torch.zeros(2, 0, dtype=torch.int64), POINTS, {"cluster": GROUP})
    assert len(lines(figure).get_segments()) == 0


@pytest.mark.parametrize(("points", "groups"), [(POINTS[:, :1], {"a": GROUP}), (POINTS, {})])
def test_what_cannot_be_drawn_is_refused(
    points: torch.Tensor, groups: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match=r"takes points \(N, 2\) and a group"):
        graph_map(PATH, points, groups)
