"""Oriented Gaussian assignment: the worked example, its invariances, and a loop over all cells."""

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from framework.detection.rotated import quad_to_orc
from modules.gghl.assignment import Assignment, OrientedGaussianAssigner, oriented_gaussian
from modules.gghl.cells import Cells


def rectangle(x: float, y: float, w: float, h: float, degrees: float) -> Tensor:
    t = math.radians(degrees)
    rotation = torch.tensor([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]]).double()
    corners = torch.tensor([[-w, -h], [w, -h], [w, h], [-w, h]]).double() / 2
    return corners @ rotation + torch.tensor([x, y]).double()


def assign(
    quads: Tensor,
    label: list[list[int]] | None = None,
    weight: list[list[float]] | None = None,
    size: int = 800,
    classes: int = 3,
    **arguments: Any,
) -> Assignment:
    rows = quads.shape[:2]
    labels = torch.zeros(rows, dtype=torch.int64) if label is None else torch.tensor(label)
    weights = torch.ones(rows) if weight is None else torch.tensor(weight)
    return OrientedGaussianAssigner(**arguments)(quads, labels, weights, (size, size), classes)


SHIP = rectangle(200, 160, 80, 30, 30)[None, None]


def test_the_example_of_the_spec() -> None:
    found = assign(SHIP, [[1]])
    # level 1 has 50 cells in a row and stands after the 100 x 100 of level 0
    places = [(c % 50, c // 50) for c in (found.cell - 10000).tolist()]
    g = found.heat[:, 1]
    expected = {
        (10, 9): 0.060693,
        (11, 9): 0.264999,
        (12, 9): 0.168559,
        (11, 10): 0.381682,
        (12, 10): 1.0,
        (13, 10): 0.381682,
        (12, 11): 0.168559,
        (13, 11): 0.264999,
        (14, 11): 0.060693,
    }
    assert dict(zip(places, g.tolist(), strict=True)) == pytest.approx(expected, abs=5e-7)
    assert float(found.heat.sum()) == pytest.approx(2.751867, abs=5e-7)
    assert found.level.tolist() == [1] * 9
    assert found.positives.tolist() == [[0, 9, 0]]
    assert found.level_weight.tolist() == [[0.0, 1.0, 0.0]]
    assert found.area_weight.tolist() == pytest.approx([0.630930] * 9, abs=5e-7)
    assert found.mask.tolist() == found.object_weight.tolist() == [1.0] * 9
    box = [157.858984, 127.009619, 242.141016, 192.990381]
    assert found.box[0].tolist() == pytest.approx(box, abs=5e-7)
    # of cell (13, 10), whose center is (216, 168)
    sides = [40.990381, 26.141016, 24.990381, 58.141016]
    assert found.distances[5].tolist() == pytest.approx(sides, abs=5e-7)


@pytest.mark.parametrize(
    ("scale", "level", "number", "total", "area_weight"),
    [(100.0, 0, 23, 7.177658, 0.430677), (0.1, 2, 3, 1.157447, 1.0)],
)
def test_the_example_on_other_levels(
    scale: float, level: int, number: int, total: float, area_weight: float
) -> None:
    found = assign(SHIP, [[1]], level_scale=scale)
    assert found.level.tolist() == [level] * number
    assert float(found.heat.sum()) == pytest.approx(total, abs=5e-7)
    assert found.area_weight.tolist() == pytest.approx([area_weight] * number, abs=5e-7)


def test_lengths_at_which_levels_change() -> None:
    assigner = OrientedGaussianAssigner()
    assert assigner.rule.level_lengths((800, 800)) == pytest.approx(
        [68.571429, 274.285714], abs=5e-7
    )
    assert assigner.rule.level_lengths((160, 160)) == pytest.approx(
        [13.714286, 54.857143], abs=5e-7
    )
    assert assigner.rule.level_lengths((400, 1600)) == assigner.rule.level_lengths((800, 800))
    four = OrientedGaussianAssigner((4, 8, 16, 32), iou_thr=0.25)
    assert four.rule.level_lengths((800, 800)) == [80, 160, 320]

    def levels(length: float, **arguments: Any) -> list[int]:
        quads = rectangle(400, 400, length, 20, 0)[None, None]
        return assign(quads, **arguments).level.unique().tolist()

    ends = [68.57, 68.58, 82.28, 82.29, 274.28, 274.29, 329.14, 329.15]
    assert [levels(length) for length in ends] == [
        [0],
        [0, 1],
        [0, 1],
        [1],
        [1],
        [1, 2],
        [1, 2],
        [2],
    ]
    assert levels(75, level_overlap=1.0) == [1]
    tiny = {"strides": (4, 8, 16, 32), "iou_thr": 0.25}
    assert [levels(x, **tiny) for x in (80, 90, 100, 190, 380, 400)] == [
        [0],
        [0, 1],
        [1],
        [1, 2],
        [2, 3],
        [3],
    ]


def test_an_object_of_four_pixels_trains_nothing() -> None:
    quads = torch.stack([rectangle(20, 20, 4, 4, 0), rectangle(60, 60, 4.1, 4.1, 0)])[None]
    assert assign(quads, size=128).object.tolist() == [1]


def test_the_gaussian_has_its_peak_in_the_middle_and_its_contours_where_stated() -> None:
    sigma = torch.tensor([3.0, 1.5]).double()
    t = torch.linspace(0, 2 * math.pi, 50).double()
    turn = torch.tensor(0.7).double()
    direction = torch.stack([turn.cos(), turn.sin()])
    normal = torch.stack([-turn.sin(), turn.cos()])

    def ellipse(factor: float) -> Tensor:
        return factor * (t.cos()[:, None] * 3 * direction + t.sin()[:, None] * 1.5 * normal)

    for factor, value in ((0.0, 1.0), (2.447747, 0.05), (2.0, 0.135335)):
        g = oriented_gaussian(ellipse(factor), direction, sigma)
        torch.testing.assert_close(g, torch.full_like(g, value), atol=5e-7, rtol=0)


@given(
    w=st.floats(10, 70),
    h=st.floats(10, 70),
    degrees=st.floats(0, 180),
    first=st.integers(0, 3),
    other_way=st.booleans(),
    half_turn=st.booleans(),
)
def test_it_does_not_matter_how_a_quad_is_written(
    w: float, h: float, degrees: float, first: int, other_way: bool, half_turn: bool
) -> None:
    quad = rectangle(83, 71, w, h, degrees)
    same = rectangle(83, 71, w, h, degrees + 180) if half_turn else quad
    same = (same.flip(0) if other_way else same).roll(first, 0)
    one, two = assign(quad[None, None], size=160), assign(same[None, None], size=160)
    assert _values(one) == pytest.approx(_values(two), abs=1e-9)


def _values(found: Assignment) -> dict[int, float]:
    """Value by cell, without cells for which rounding decides whether they are positive."""
    clear = (found.heat[:, 0] > 0.05 + 1e-9) & (found.distances.amin(1) > 1e-9)
    return dict(zip(found.cell[clear].tolist(), found.heat[clear, 0].tolist(), strict=True))


@pytest.mark.parametrize("degrees", [0, 13, 45, 77])
def test_the_angle_of_a_square_does_not_matter(degrees: float) -> None:
    """Nor does that of any object where both axes come from the short side."""
    square = assign(rectangle(83, 71, 40, 40, degrees)[None, None], size=160, radius_cap=9)
    long = {"sigma": "isotropic", "size": 160, "radius_cap": 9, "level_scale": 0.5}
    ship = assign(rectangle(83, 71, 80, 40, degrees)[None, None], **long)
    for found in (square, ship):
        s = torch.tensor([8, 16, 32])[found.level]
        width = 160 // s
        start = torch.tensor([0, 400, 500])[found.level]
        x = (found.cell - start) % width - 83 // s
        y = (found.cell - start) // width - 71 // s
        sigma = 0.5 * (40 / (2 * s)) ** 0.7
        g = torch.exp(-(x**2 + y**2) / (2 * sigma.double() ** 2))
        torch.testing.assert_close(found.heat[:, 0], g)
        # of a square all cells above the threshold that the box holds
        assert (g > 0.05).all()


def test_the_cell_owner_is_the_larger_value_then_the_smaller_object() -> None:
    two = torch.stack([rectangle(72, 72, 50, 30, 0), rectangle(72, 72, 30, 20, 90)])[None]
    found = assign(two, [[0, 2]], size=160)
    middle = (found.level == 1) & (found.cell == 400 + 4 * 10 + 4)
    assert found.object[middle].tolist() == [1]
    assert found.heat[middle].tolist() == [[0, 0, 1]]
    assert len({*found.cell.tolist()}) == len(found.cell)
    # as in the authors' code the last object has the box, and both classes their value
    found = assign(two.flip(1), [[2, 0]], size=160, multi_class_cells=True)
    middle = (found.level == 1) & (found.cell == 400 + 4 * 10 + 4)
    assert found.object[middle].tolist() == [1]
    assert found.heat[middle].tolist() == [[1, 0, 1]]
    width = found.box[middle][0, 2] - found.box[middle][0, 0]
    assert float(width) == pytest.approx(50)


def test_padding_and_no_objects() -> None:
    nothing = assign(torch.zeros(2, 1, 4, 2), [[-1], [-1]], [[0.0], [0.0]], size=64)
    assert len(nothing.cell) == 0
    assert nothing.heat.shape == (0, 3)
    assert nothing.box.shape == nothing.s.shape == nothing.distances.shape == (0, 4)
    assert nothing.positives.tolist() == nothing.level_weight.tolist() == [[0, 0, 0]] * 2
    for rows, objects in ((0, 1), (2, 0)):
        empty = assign(torch.zeros(rows, objects, 4, 2), size=64)
        assert empty.positives.shape == empty.level_weight.shape == (rows, 3)
    alone = assign(SHIP)
    padded = assign(torch.cat([torch.zeros(1, 1, 4, 2), SHIP], 1), [[-1, 0]], [[0.0, 1.0]])
    assert padded.object.tolist() == [1] * 9
    for name in ("cell", "heat", "box", "distances", "positives", "level_weight"):
        assert torch.equal(getattr(padded, name), getattr(alone, name))


def test_an_object_without_width_trains_nothing() -> None:
    line = torch.tensor([[10.0, 10.0], [60, 60], [60, 60], [10, 10]])[None, None]
    for sigma in ("code", "paper"):
        assert len(assign(line, size=128, sigma=sigma).cell) == 0


def test_mixup_weights() -> None:
    quads = torch.stack([rectangle(50, 50, 30, 15, 20), rectangle(110, 110, 30, 15, 70)])[None]
    found = assign(quads, [[0, 1]], [[0.3, 0.7]], size=160)
    assert set(found.level.tolist()) == {1}
    weights = torch.tensor([0.3, 0.7]).double()
    assert torch.equal(found.object_weight.float(), weights[found.object].float())
    assert found.level_weight[0].tolist() == pytest.approx([0, 0.7, 0], abs=1e-7)
    found = assign(quads.flip(1), [[0, 1]], [[0.7, 0.3]], size=160)
    assert found.level_weight[0].tolist() == pytest.approx([0, 0.3, 0], abs=1e-7)


def test_half_precision_boxes_are_assigned_in_float32() -> None:
    found = assign(SHIP.to(torch.bfloat16))
    assert found.heat.dtype == found.box.dtype == torch.float32


def test_the_best_cells_are_positive_in_the_paper_variant() -> None:
    found = assign(SHIP, sigma="paper", iou_thr=0.3)
    # sigma is a quarter of a side; all cells above the threshold count, wherever they lie
    for level, stride in enumerate((8, 16, 32)):
        x, y = torch.meshgrid(torch.arange(-20, 21), torch.arange(-20, 21), indexing="xy")
        direction = torch.tensor([math.cos(math.radians(30)), math.sin(math.radians(30))])
        sigma = torch.tensor([20.0, 7.5]) / stride
        values = oriented_gaussian(torch.stack([x, y], -1).float(), direction, sigma).flatten()
        values = values[values > 0.05].sort(descending=True).values
        best = math.ceil(0.7 * len(values))
        here = found.level == level
        g, mask = found.heat[here, 0].float(), found.mask[here].float()
        full = g >= values[best - 1] - 1e-6
        assert torch.equal(mask, torch.where(full, 1, g))
        assert int(full.sum()) == int(found.positives[0, level])
        weight = 2 * math.log(2) / math.log(math.sqrt(best) + 1)
        assert found.area_weight[here].tolist() == pytest.approx([weight] * len(g))
    # the longest distance of a cell decides on its level
    farthest = found.distances.amax(1)
    bounds = torch.tensor([0.0, 64, 128, math.inf])
    assert (farthest > bounds[found.level]).all()
    assert (farthest <= bounds[found.level + 1]).all()
    assert set(found.level.tolist()) == {0, 1}


@pytest.mark.parametrize("sigma", ["code", "paper", "isotropic"])
@pytest.mark.parametrize(
    "quad",
    [
        # upright, where many values are equal; turned by 45 degrees, where rounding parts them
        rectangle(77, 69, 60, 20, 0),
        rectangle(77, 69, 60, 20, 90),
        rectangle(77, 69, 60, 20, 45),
        rectangle(61, 93, 75, 33, 17),
        rectangle(31, 43, 100, 90, 151),
    ],
    ids=["flat", "upright", "diagonal", "turned", "large"],
)
def test_a_turned_picture_has_the_turned_targets(sigma: str, quad: Tensor) -> None:
    size = 160
    found = assign(quad.float()[None, None], size=size, sigma=sigma)
    turned = assign(size - quad.float()[None, None], size=size, sigma=sigma)
    assert len(found.cell) > 0
    shapes = torch.tensor([(size // s) ** 2 for s in (8, 16, 32)])
    starts = shapes.cumsum(0) - shapes
    place = starts[turned.level] + shapes[turned.level] - 1 - (turned.cell - starts[turned.level])
    order = place.argsort()
    assert torch.equal(place[order], found.cell)
    # a quarter of the values are equal to others; none of them may depend on its place
    torch.testing.assert_close(turned.mask[order], found.mask)
    torch.testing.assert_close(turned.heat[order], found.heat)
    torch.testing.assert_close(turned.area_weight[order], found.area_weight)
    torch.testing.assert_close(turned.distances[order].roll(2, 1), found.distances)
    torch.testing.assert_close(turned.s[order].roll(2, 1), found.s, atol=1e-5, rtol=0)
    assert torch.equal(turned.positives, found.positives)


# ---- a loop over images, objects, levels and cells, written from the definition ------------------


def loop(
    quads: Tensor, label: Tensor, weight: Tensor, size: int, classes: int, a: Any
) -> dict[tuple[int, int], dict[str, Any]]:
    per_cell: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    T, starts, start = a.rule.iou_thr, [], 0
    for s in a.strides:
        starts.append(start)
        start += math.ceil(size / s) ** 2
    if len(a.strides) == 4:
        ends = [0, size / 10, size / 5, size / 2.5, math.inf]
    else:
        ends = [0, *(3 * 2 * s / (1 - T) * size / 800 for s in (8, 32)), math.inf]
    for image in range(len(quads)):
        for number, quad in enumerate(quads[image]):
            if label[image, number] < 0:
                continue
            box, s, r = (v.tolist() for v in quad_to_orc(quad))
            x0, y0, x1, y1 = box
            W, H = x1 - x0, y1 - y0
            if max(W, H) <= 4:
                continue
            p = quad.tolist()
            edge = [math.dist(p[i], p[(i + 1) % 4]) for i in range(4)]
            sides = [(edge[0] + edge[2]) / 2, (edge[1] + edge[3]) / 2]
            i = 0 if sides[0] >= sides[1] else 1
            theta = math.atan2(
                p[i + 1][1] - p[i][1] + p[i + 2][1] - p[(i + 3) % 4][1],
                p[i + 1][0] - p[i][0] + p[i + 2][0] - p[(i + 3) % 4][0],
            )
            long, short = max(sides), min(sides)
            if a.sigma == "isotropic":
                long = short
            center = [sum(v[0] for v in p) / 4, sum(v[1] for v in p) / 4]
            for k, stride in enumerate(a.strides):
                fits = ends[k] < max(W, H) <= 1.2 * ends[k + 1]
                if a.sigma != "paper" and not fits:
                    continue
                cells_of_object, above = [], []
                n = math.ceil(size / stride)
                m_w, m_h = (
                    math.floor(min(max(v / (2 * stride), 1), a.rule.radius_cap - k)) for v in (W, H)
                )
                power = 1 if a.sigma == "paper" else 1 - T
                sigma_w = 0.5 * (long / (2 * stride)) ** power
                sigma_h = 0.5 * (short / (2 * stride)) ** power
                cx, cy = (math.floor(v / stride) for v in center)
                for row in range(n):
                    for column in range(n):
                        dx, dy = column - cx, row - cy
                        if a.sigma != "paper" and (abs(dx) > m_w + 1 or abs(dy) > m_h + 1):
                            continue
                        u = dx * math.cos(theta) + dy * math.sin(theta)
                        v = -dx * math.sin(theta) + dy * math.cos(theta)
                        g = math.exp(-((u / sigma_w) ** 2 + (v / sigma_h) ** 2) / 2)
                        px, py = (column + 0.5) * stride, (row + 0.5) * stride
                        sides_of_cell = [py - y0, x1 - px, y1 - py, px - x0]
                        if g <= a.heat_thr:
                            continue
                        above.append(g)
                        if min(sides_of_cell) <= 0:
                            continue
                        if a.sigma == "paper":
                            low = 0 if k == 0 else 8 * a.strides[k - 1]
                            high = 8 * stride if k < len(a.strides) - 1 else math.inf
                            if not low < max(sides_of_cell) <= high:
                                continue
                        cells_of_object.append(
                            {
                                "cell": starts[k] + row * n + column,
                                "object": number,
                                "label": int(label[image, number]),
                                "level": k,
                                "g": g,
                                "area": r * W * H,
                                "distances": sides_of_cell,
                                "s": s,
                                "r": r,
                                "box": box,
                                "object_weight": float(weight[image, number]),
                            }
                        )
                best, threshold = len(cells_of_object), 0.0
                if a.sigma == "paper":
                    best = math.ceil((1 - T) * len(above))
                    threshold = sorted(above, reverse=True)[best - 1] if above else 0.0
                w = math.log(2) / math.log(math.sqrt(m_w * m_h) + 1)
                if a.sigma == "paper" or len(a.strides) == 4:
                    w = 2 * math.log(2) / math.log(math.sqrt(max(best, 1)) + 1)
                for c in cells_of_object:
                    # values that differ by rounding only are equal
                    c["mask"] = 1.0 if c["g"] > threshold * (1 - 1e-4) else c["g"]
                    c["area_weight"] = w
                    per_cell[image, c["cell"]].append(c)
    result = {}
    for place, rivals in per_cell.items():
        heat = [0.0] * classes
        if a.multi_class_cells:
            for c in rivals:  # in the order of the objects
                if c["g"] >= heat[c["label"]]:
                    heat[c["label"]] = c["g"]
                    owner = c
        else:
            owner = max(rivals, key=lambda c: (c["g"], -c["area"]))
            heat[owner["label"]] = owner["g"]
        result[place] = {**owner, "heat": heat}
    return result


VARIANTS = [
    {},
    {"multi_class_cells": True},
    {"sigma": "isotropic"},
    {"sigma": "paper"},
    {"sigma": "paper", "multi_class_cells": True},
    {"strides": (4, 8, 16, 32), "iou_thr": 0.25},
    # where the window ends before the Gaussian
    {"iou_thr": 0.0, "heat_thr": 0.001, "radius_cap": 3},
]


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_equal_to_the_loop(arguments: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    size, images, objects, classes = (400 if "radius_cap" in arguments else 160), 3, 60, 3

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    quads = torch.stack(
        [
            rectangle(
                *(size * draw(2)).tolist(), *(3 + 0.6 * size * draw(2) ** 2).tolist(), float(t)
            )
            for t in 180 * draw(images * objects)
        ]
    ).view(images, objects, 4, 2)
    quads = quads + draw(*quads.shape)
    label = (draw(images, objects) * (classes + 1)).long() - 1
    weight = draw(images, objects)
    assigner = OrientedGaussianAssigner(**arguments)
    found = assigner(quads, label, weight, (size, size), classes)
    expected = loop(quads, label, weight, size, classes, assigner)
    places = list(zip(found.image.tolist(), found.cell.tolist(), strict=True))
    assert places == sorted(expected)
    assert len(places) > 100
    for name in (
        "object",
        "level",
        "heat",
        "mask",
        "area_weight",
        "object_weight",
        "box",
        "s",
        "r",
        "distances",
    ):
        value = getattr(found, name)
        wanted = torch.tensor([expected[place][name] for place in places], dtype=value.dtype)
        torch.testing.assert_close(value, wanted)
    whole = [(p[0], expected[p]["level"]) for p in places if expected[p]["mask"] == 1]
    levels = range(len(assigner.strides))
    counted = [[whole.count((image, k)) for k in levels] for image in range(images)]
    assert found.positives.tolist() == counted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": (8, 16)}, "strides must be 3 or 4 ascending"),
        ({"strides": (8, 32, 16)}, "strides must be 3 or 4 ascending"),
        ({"iou_thr": 1.0}, "iou_thr must lie in"),
        ({"heat_thr": 0.0}, "heat_thr must lie in"),
        ({"level_scale": 0.0}, "level_scale must be positive"),
        ({"level_overlap": 0.9}, "level_overlap must be at least 1"),
        ({"sigma": "round"}, "sigma must be one of"),
        ({"radius_cap": 2}, "radius_cap must be at least 3"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrientedGaussianAssigner(**arguments)


def test_bad_input() -> None:
    assigner = OrientedGaussianAssigner()
    label, weight = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    with pytest.raises(ValueError, match="do not fit"):
        assigner(SHIP[:, 0], label, weight, (64, 64), 1)
    with pytest.raises(ValueError, match="do not fit"):
        assigner(SHIP, label, weight[0], (64, 64), 1)
    with pytest.raises(ValueError, match="A label is 3, but there are 3 classes"):
        assigner(SHIP, label + 3, weight, (64, 64), 3)


def test_cells_of_incomplete_rows() -> None:
    grid = Cells.of((100, 64))
    assert grid.shapes == ((13, 8), (7, 4), (4, 2))
    assert len(grid.center) == len(grid.stride) == len(grid.level) == 13 * 8 + 28 + 8
    assert grid.center[9].tolist() == [12.0, 12.0]
