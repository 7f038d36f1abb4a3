"""The box coder of GGHL."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.detection.rotated import cxcywhr_to_quad, is_convex, orc_to_quad, quad_to_orc


def box(*values: float) -> torch.Tensor:
    return cxcywhr_to_quad(torch.tensor(values, dtype=torch.float64))


def test_the_worked_example() -> None:
    code = quad_to_orc(box(200, 160, 80, 30, math.pi / 6))
    expected = torch.tensor([157.858984, 127.009619, 242.141016, 192.990381], dtype=torch.float64)
    torch.testing.assert_close(code.box, expected, atol=1e-6, rtol=0)
    expected = torch.tensor([0.177974, 0.606237, 0.177974, 0.606237], dtype=torch.float64)
    torch.testing.assert_close(code.s, expected, atol=1e-6, rtol=0)
    assert abs(code.r - 0.431578) < 1e-6


@given(
    st.floats(-900, 900),
    st.floats(-900, 900),
    st.floats(1, 300),
    st.floats(1, 300),
    st.floats(-7, 7),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_rectangle_comes_back(
    x: float, y: float, w: float, h: float, angle: float, start: int, turn: bool
) -> None:
    quad = box(x, y, w, h, angle).roll(start, 0)
    code = quad_to_orc(quad.flip(0) if turn else quad)
    back = orc_to_quad(code.box, code.s)
    if code.r > 0.9:
        low, high = quad.amin(0), quad.amax(0)
        corners = [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]
        assert back.tolist() == [[float(v) for v in corner] for corner in corners]
        assert code.s.count_nonzero() == 0
    else:
        # the same corners, in whatever order
        distance = torch.cdist(back, quad, compute_mode="donot_use_mm_for_euclid_dist")
        assert distance.amin(0).max() < 1e-9
        assert distance.amin(1).max() < 1e-9


def test_what_counts_as_horizontal() -> None:
    # a share 1 - r of the horizontal box is cut off at its corners
    quad = orc_to_quad(torch.tensor([0.0, 0.0, 10.0, 10.0]), torch.tensor([0.1, 0.1, 0.1, 0.1]))
    assert abs(quad_to_orc(quad).r - 0.82) < 1e-6
    assert quad_to_orc(quad, horizontal=0.81).s.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(quad_to_orc(quad, horizontal=0.83).s, torch.full((4,), 0.1))


def test_a_corner_inside_the_box_is_moved_to_the_side() -> None:
    # the third corner is on no side: the nearest one is at the bottom, y = 10
    quad = torch.tensor([[0.0, 0.0], [10.0, 4.0], [7.0, 9.0], [2.0, 10.0]])
    code = quad_to_orc(quad)
    assert code.box.tolist() == [0, 0, 10, 10]
    back = orc_to_quad(code.box, code.s)
    assert back.tolist() == [[0, 0], [10, 4], [7, 10], [0, 10]]
    assert abs(code.r - 0.01 * (100 - 20 - 9)) < 1e-6


@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_decoded_quads_are_convex(s: list[float]) -> None:
    quad = orc_to_quad(torch.tensor([3.0, 5.0, 11.0, 9.0]), torch.tensor(s)).double()
    shrunk = orc_to_quad(torch.tensor([3.0, 5.0, 11.0, 9.0]), torch.tensor(s) * 0.9 + 0.05)
    assert is_convex(shrunk)
    assert (
        (quad >= torch.tensor([3.0, 5.0]) - 1e-5) & (quad <= torch.tensor([11.0, 9.0]) + 1e-5)
    ).all()


def test_leading_dimensions_and_boxes_without_area() -> None:
    quads = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    quads[0, 1] = 7.0
    code = quad_to_orc(quads)
    assert [tuple(part.shape) for part in code] == [(2, 3, 4), (2, 3, 4), (2, 3)]
    assert all(part.isfinite().all() for part in code)
    assert (code.s[0, 1].tolist(), code.r[0, 1]) == ([0, 0, 0, 0], 0)
    assert [part.shape[0] for part in quad_to_orc(quads[:0])] == [0, 0, 0]


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"floats \(\.\.\., 4, 2\)"):
        quad_to_orc(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"box and s must be \(\.\.\., 4\), got \(4,\) and \(3,\)"):
        orc_to_quad(torch.zeros(4), torch.zeros(3))
