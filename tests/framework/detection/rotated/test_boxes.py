"""Conversions of oriented boxes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

from framework.detection.rotated import (
    cxcywhr_to_quad,
    cxcywhr_to_torchvision,
    is_convex,
    quad_area,
    quad_to_cxcywhr,
    torchvision_to_cxcywhr,
)

# of the specification: 80 x 30 at 30 degrees, clockwise on the screen
BOX = torch.tensor([200.0, 160.0, 80.0, 30.0, math.pi / 6], dtype=torch.float64)
CORNERS = torch.tensor(
    [
        [172.858984, 127.009619],
        [242.141016, 167.009619],
        [227.141016, 192.990381],
        [157.858984, 152.990381],
    ],
    dtype=torch.float64,
)
ANGLES = st.floats(0, math.pi, exclude_max=True)


def test_corners_of_the_worked_example() -> None:
    torch.testing.assert_close(cxcywhr_to_quad(BOX), CORNERS, atol=1e-6, rtol=0)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(2, 99), st.floats(0.5, 1.9), ANGLES)
def test_a_rectangle_comes_back(x: float, y: float, a: float, b: float, angle: float) -> None:
    box = torch.tensor([x, y, a, b, angle], dtype=torch.float64)
    back = quad_to_cxcywhr(cxcywhr_to_quad(box))
    torch.testing.assert_close(back[:4], box[:4], atol=1e-9, rtol=0)
    turned = (back[4] - box[4] + math.pi / 2).remainder(math.pi)
    assert abs(turned - math.pi / 2) < 1e-9
    assert 0 <= back[4] < math.pi
    # the short side first is the same box
    swapped = box[[0, 1, 3, 2, 4]] - torch.tensor([0, 0, 0, 0, math.pi / 2])
    other = quad_to_cxcywhr(cxcywhr_to_quad(swapped))
    torch.testing.assert_close(other[:4], box[:4], atol=1e-9, rtol=0)


def test_the_angle_is_below_pi() -> None:
    # the first side rises by less than pi can hold
    quad = torch.tensor([[0.0, 0.0], [2.0, -1e-9], [2.0, 1.0], [0.0, 1.0]])
    assert quad_to_cxcywhr(quad)[4] == 0


def test_sides_of_a_trapezoid_are_means() -> None:
    quad = torch.tensor([[0.0, 0.0], [10.0, 2.0], [10.0, 8.0], [0.0, 10.0]])
    expected = torch.tensor([5.0, 5.0, math.sqrt(104), 8.0, 0.0])
    torch.testing.assert_close(quad_to_cxcywhr(quad), expected)


def test_corners_are_those_of_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    box = torch.rand(50, 5, generator=generator, dtype=torch.float64) * 40 + 1
    box[:, 4] = box[:, 4] / 7 - 3
    theirs = box_convert(cxcywhr_to_torchvision(box), "cxcywhr", "xyxyxyxy")
    torch.testing.assert_close(cxcywhr_to_quad(box), theirs.view(-1, 4, 2), atol=1e-9, rtol=0)
    torch.testing.assert_close(torchvision_to_cxcywhr(cxcywhr_to_torchvision(box)), box)


def test_area_and_convexity() -> None:
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    quads = torch.stack(
        [
            square,
            square.flip(0),
            square[[0, 2, 1, 3]],  # crossed
            torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.5, 0.5], [0.0, 2.0]]),  # dented
            torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 2.0]]),  # three in a line
            torch.full((4, 2), math.nan),
        ]
    )
    assert is_convex(quads).tolist() == [True, True, False, False, False, False]
    assert quad_area(quads[:5]).tolist() == [4, 4, 0, 1, 2]
    # far from the origin float32 would lose the area of a small box
    assert quad_area(square / 4 + 2.0**16) == 0.25


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"floats \(\.\.\., 4, 2\), got torch.int64"):
        quad_area(torch.zeros(4, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(8,\)"):
        quad_to_cxcywhr(torch.zeros(8))
    with pytest.raises(ValueError, match=r"floats \(\.\.\., 5\)"):
        cxcywhr_to_quad(torch.zeros(4))
