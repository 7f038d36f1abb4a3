"""Colors that differ, and names beside the middle of a group."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from framework.figures.groups import group_colors, name_groups
from framework.figures.style import COLORS

pytestmark = pytest.mark.pictures


@pytest.mark.parametrize("count", [1, 7, 8, 10, 11, 20, 21, 256])
def test_no_two_groups_share_a_color(count: int) -> None:
    colors = [to_hex(color) for color in group_colors(count)[:count]]
    assert len(set(colors)) == count


def test_a_few_groups_have_the_colors_of_all_figures() -> None:
    assert group_colors(7) == list(COLORS)
    # a color does not depend on how many groups there are beside it
    assert group_colors(3)[:3] == group_colors(7)[:3]


def test_a_name_stands_beside_the_middle_of_its_group() -> None:
    axes = Figure().add_subplot()
    points = np.array([[0.0, 0.0], [1.0, 2.0], [9.0, 4.0], [5.0, 5.0], [7.0, 7.0]])
    name_groups(axes, points, np.array([2, 2, 2, 0, -1]), ["a", "b", "c"], group_colors(3))
    assert [(text.get_text(), *text.xy) for text in axes.texts] == [("a", 5, 5), ("c", 1, 2)]
    assert [text.get_color() for text in axes.texts] == [COLORS[0], COLORS[2]]
