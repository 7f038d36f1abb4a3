import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.detection.objects import Objects
from framework.detection.tiles import merge_tiles, tile_objects, tile_origins, to_whole_image


def an_object(corners, difficult=0):
    return Objects(
        torch.tensor([corners], dtype=torch.float32),
        torch.tensor([5]),
        torch.tensor([difficult], dtype=torch.uint8),
    )


def rectangle(left, top, right, bottom):
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def detection(box, score, label=0):
    return {
        "boxes": torch.tensor([box], dtype=torch.float32),
        "scores": torch.tensor([score]),
        "labels": torch.tensor([label]),
    }


def test_the_example_of_the_development_kit():
    assert tile_origins(2000, 1024, 200) == [0, 824, 976]
    assert tile_origins(1600, 1024, 200) == [0, 576]
    assert tile_origins(1024, 1024, 200) == [0]
    assert tile_origins(1848, 1024, 200) == [0, 824]
    assert tile_origins(1, 1024, 200) == [0]


@given(st.integers(1, 500), st.integers(1, 60), st.data())
def test_windows_cover_a_length_and_overlap_by_the_gap(size, window, data):
    gap = data.draw(st.integers(0, window - 1))
    origins = tile_origins(size, window, gap)
    covered = {x for origin in origins for x in range(origin, origin + window)}
    assert set(range(size)) <= covered
    assert origins[-1] == max(size - window, 0)
    assert all(b - a <= window - gap for a, b in pairwise(origins))
    assert origins == sorted(set(origins))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 2), "size must be at least 1, got 0"),
        ((8, 0, 0), "window must be at least 1, got 0"),
        ((8, 8, 8), r"gap must lie in \[0, 8\), got 8"),
        ((8, 8, -1), r"gap must lie in \[0, 8\), got -1"),
    ],
)
def test_windows_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        tile_origins(*arguments)


def test_an_object_inside_stays_as_it_is():
    corners = rectangle(100.25, 50, 120, 60)
    inside = tile_objects(an_object(corners, 1), 100, 40, 64)
    assert inside.quads.tolist() == [[[0.25, 10], [20, 10], [20, 20], [0.25, 20]]]
    assert inside.label.tolist() == [5]
    assert inside.difficult.tolist() == [1]


def test_an_object_outside_is_not_shown():
    assert len(tile_objects(an_object(rectangle(100, 0, 120, 20)), 0, 0, 100)) == 0, "it touches"
    diamond = [(100, 130), (130, 100), (160, 130), (130, 160)]
    # its upright box reaches into the tile, it does not
    assert len(tile_objects(an_object(diamond), 0, 0, 110)) == 0


@pytest.mark.parametrize(("right", "difficult"), [(107, 2), (106, 1), (108, 2)])
def test_of_a_cut_object_0_7_is_too_little(right, difficult):
    # 14 of 20 pixels are 0.7, which is not more than 0.7
    whole = an_object(rectangle(right - 20, 10, right, 30), 1)
    part = tile_objects(whole, 0, 0, 101)
    assert part.quads.tolist() == [[[right - 20, 10], [101, 10], [101, 30], [right - 20, 30]]]
    assert part.difficult.tolist() == [difficult]


def test_the_shortest_edge_of_five_corners_becomes_its_middle():
    # the border cuts off the right corner of a diamond: 5 corners
    diamond = [(50.0, 20.0), (80.0, 50.0), (50.0, 80.0), (20.0, 50.0)]
    part = tile_objects(an_object(diamond), 0, 0, 75)
    # of the cut at the right, (75, 45) to (75, 55), and the one below, (45, 75) to (55, 75)
    assert len(part) == 0, "two corners are cut off, 6 remain"
    moved = [(x, y - 10) for x, y in diamond]
    part = tile_objects(an_object(moved), 0, 0, 75)
    assert part.quads.tolist() == [[[50, 10], [75, 40], [50, 70], [20, 40]]]
    assert part.difficult.tolist() == [0]


@pytest.mark.parametrize(("cut", "difficult"), [(25, 0), (38, 0), (39, 2)])
def test_the_share_of_five_corners_is_that_of_what_is_shown(cut, difficult):
    # of a square with diagonals of 100 the border cuts off cut², of 5000: 0.875, 0.7112, 0.6958;
    # of the four corners that remain the shares would be 0.6875, 0.6056, 0.5979
    corners = [(50.0, 10.0), (100.0, 60.0), (50.0, 110.0), (0.0, 60.0)]
    moved = [(x + 100 + cut, y) for x, y in corners]
    part = tile_objects(an_object(moved), 0, 0, 200)
    assert part.difficult.tolist() == [difficult]


def test_the_shortest_edge_is_so_by_euclidean_length():
    # the cut, upright, is 50.6 long; the edge above it 38.2, but 54 along the axes
    corners = [(100.0, 10.0), (150.0, 60.0), (100.0, 120.0), (50.0, 60.0)]
    part = tile_objects(an_object(corners), 0, 0, 127)
    expected = torch.tensor([[113.5, 23.5], [127, 87.6], [100, 120], [50, 60]])
    assert torch.allclose(part.quads[0], expected)


def test_three_corners_are_left_out():
    diamond = [(50, -40), (140, 50), (50, 140), (-40, 50)]
    # of its left corner the tile shows a triangle
    assert len(tile_objects(an_object(diamond), -91, 0, 60)) == 0


@pytest.mark.parametrize("first", range(4))
def test_the_first_corner_stays_the_head(first):
    corners = rectangle(80.0, 10, 120, 30)
    corners = corners[first:] + corners[:first]
    (part,) = tile_objects(an_object(corners), 0, 0, 100).quads.tolist()
    expected = rectangle(80.0, 10, 100, 30)
    assert part == [list(corner) for corner in expected[first:] + expected[:first]]


@given(
    st.floats(0, math.pi),
    st.floats(-20, 120),
    st.floats(-20, 120),
    st.floats(8, 60),
    st.floats(4, 8),
)
def test_what_is_shown_lies_in_the_tile_and_the_object(angle, x, y, length, width):
    along = torch.tensor([math.cos(angle), math.sin(angle)]) * length / 2
    across = torch.tensor([-math.sin(angle), math.cos(angle)]) * width / 2
    center = torch.tensor([x, y])
    corners = [-along - across, along - across, along + across, across - along]
    quad = torch.stack([center + corner for corner in corners])
    part = tile_objects(an_object(quad.tolist()), 0, 0, 100)
    if len(part):
        assert part.quads.min() >= 0
        assert part.quads.max() <= 100
        offset = part.quads[0] - center
        assert (offset @ along).abs().max() <= (length / 2) ** 2 + 1e-2
        assert (offset @ across).abs().max() <= (width / 2) ** 2 + 1e-2
        x0, y0 = part.quads[0].unbind(-1)
        area = 0.5 * (x0 * y0.roll(-1) - y0 * x0.roll(-1)).sum()
        assert area > -1e-3, "clockwise"
        if part.difficult[0] < 2:
            # five corners of which two become one lose at most a triangle
            assert area > 0.4 * length * width


def test_to_whole_images_and_back():
    quads = torch.tensor([rectangle(10.0, 20, 30, 40)])
    scale, offset = torch.tensor(0.5), torch.tensor([100.0, 7.0])
    whole = to_whole_image(quads, offset, scale)
    assert whole.tolist() == [[[220, 54], [260, 54], [260, 94], [220, 94]]]
    assert torch.equal(whole * scale - offset, quads)


def test_tiles_of_one_image_merge_by_class():
    found = [
        detection(rectangle(90, 10, 100, 20), 0.6),
        detection(rectangle(10, 10, 20, 20), 0.9),  # the same place seen from the next tile
        detection(rectangle(10, 10, 20, 20), 0.5, label=1),  # of another class
        detection(rectangle(5, 5, 10, 10), 0.4),  # of the image at half size: (90, 10) again
        detection(rectangle(90, 10, 100, 20), 0.7),  # of another image
    ]
    image = torch.tensor([3, 3, 3, 3, 9])
    offset = torch.tensor([[0.0, 0], [80, 0], [80, 0], [40, 0], [0, 0]])
    scale = torch.tensor([1, 1, 1, 0.5, 1])
    merged = merge_tiles(found, image, offset, scale, iou_threshold=0.3)
    assert merged[3]["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert merged[3]["labels"].tolist() == [0, 1]
    assert merged[3]["boxes"][0].tolist() == [[90, 10], [100, 10], [100, 20], [90, 20]]
    assert merged[9]["scores"].tolist() == pytest.approx([0.7])
    # that of half size is (90, 10, 100, 20) too
    assert len(merge_tiles(found, image, offset, scale, 1.0)[3]["scores"]) == 4


def test_an_image_where_nothing_was_found_is_there():
    none = {name: value[:0] for name, value in detection(rectangle(0, 0, 1, 1), 0.5).items()}
    merged = merge_tiles([none], torch.tensor([4]), torch.zeros(1, 2), torch.ones(1), 0.3)
    assert merged[4]["boxes"].shape == (0, 4, 2)
    assert merge_tiles([], torch.tensor([]), torch.zeros(0, 2), torch.ones(0), 0.3) == {}
