"""Overlap of oriented boxes and quadrilaterals."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from torch.autograd import gradcheck

from framework.detection.rotated import (
    cxcywhr_to_quad,
    iou,
    orc_to_quad,
    quad_area,
    rotated_iou,
)
from framework.detection.rotated.intersection import hull_area
from framework.detection.rotated.overlap_candidates import (
    overlapping_pairs,
    overlapping_pairs_within,
)
from tests.framework.detection.rotated import exact

TRAPEZOID = torch.tensor([[0.0, 0.0], [10.0, 2.0], [10.0, 8.0], [0.0, 10.0]])
SQUARE = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0]])


def boxes(*rows: tuple[float, ...]) -> torch.Tensor:
    """Return boxes (N, 5) whose angles are given in degrees."""
    result = torch.tensor(rows, dtype=torch.float64)
    return torch.cat([result[:, :4], result[:, 4:].deg2rad()], 1)


def random_quads(count: int, seed: int) -> torch.Tensor:
    """Return convex quads of about 40 x 20 pixels in an area where many overlap."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(count, 9, generator=generator, dtype=torch.float64)
    box = torch.stack([-u[:, 0] * 30, -u[:, 1] * 30, u[:, 2] * 30 + 1, u[:, 3] * 30 + 1], 1)
    angle = u[:, 8] * 2 * math.pi
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    return orc_to_quad(box, u[:, 4:8]) @ turn + 500


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, 45), 1 / math.sqrt(2)),
        ((0, 0, 10, 2, 0), (0, 0, 10, 2, 90), 1 / 9),
        ((0, 0, 10, 4, 0), (2, 0, 10, 4, 0), 2 / 3),
        ((50, 50, 40, 20, 0), (50, 50, 40, 20, 30), 0.623310),
        # clockwise or not decides
        ((160, 153, 230, 23, 37), (190, 127, 80, 21, 46), 0.0),
        ((160, 153, 230, 23, -37), (190, 127, 80, 21, -46), 0.265493),
    ],
)
def test_worked_values(a: tuple, b: tuple, expected: float) -> None:
    for p, q in ((a, b), (b, a)):
        value = rotated_iou(boxes(p), boxes(q), fmt="cxcywhr")
        assert abs(value.item() - expected) < 1e-6


def test_a_trapezoid_is_not_its_rectangle() -> None:
    assert abs(rotated_iou(TRAPEZOID[None], SQUARE[None]).item() - 0.8) < 1e-6


def test_known_wrong_answers_of_other_kernels() -> None:
    # of itself: 1/3
    a = torch.tensor([[0, 0, 180.6422271729, 136.3633728027, 0.9559648633]])
    assert abs(rotated_iou(a, a, fmt="cxcywhr").item() - 1) < 1e-6
    # nearly parallel: torchvision 0.29.2 gives 0.2736 in this order
    values = [228.44654846191406, 280.7284240722656, 70.29969024658203, 16.38966941833496]
    a = torch.tensor([[*values, 0.26054954528808594]])
    values = [227.12342834472656, 278.3567810058594, 65.87997436523438, 13.172192573547363]
    b = torch.tensor([[*values, 0.2501770853996277]])
    expected = exact.iou(cxcywhr_to_quad(a.double())[0], cxcywhr_to_quad(b.double())[0])
    assert abs(expected - 0.7196) < 1e-4
    for p, q in ((a, b), (b, a)):
        assert abs(rotated_iou(p.double(), q.double(), fmt="cxcywhr").item() - expected) < 1e-12
    # next to a point: 1 in float32, 371957 and inf elsewhere
    a = boxes((903.34, 1034.4, 1.81e-7, 1e-7, 17.9))
    b = boxes((215.25, 75.75, 33.2, 12.6, -18), (903.34, 1034.4, 33.2, 12.6, -18))
    assert (rotated_iou(a.float(), b.float(), fmt="cxcywhr") < 1e-9).all()
    assert (rotated_iou(a, a, fmt="cxcywhr") <= 1).all()


def test_against_rational_numbers() -> None:
    a, b = random_quads(300, seed=0), random_quads(300, seed=1)
    b[:60] = a[:60]
    b[60:120] = a[60:120] + 1e-9 * torch.randn(
        60, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    b[120:150] = a[120:150].roll(1, 1)
    b[150:180, :2] = a[150:180, :2].flip(1)  # a common side, the rest on the other side
    b[150:180, 2:] = 2 * a[150:180, :2] - a[150:180, 2:].flip(1)
    convex = quad_area(b) > 0
    values = rotated_iou(a, b, aligned=True)
    expected = exact.ious(a, b)
    inside = torch.arange(300)
    usable = convex & ((inside < 150) | (inside >= 180))
    torch.testing.assert_close(values[usable], expected[usable], atol=1e-9, rtol=0)
    assert values[150:180].max() < 1e-9


def test_nearly_parallel_edges_cost_no_more_than_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.rand(200, 5, generator=generator, dtype=torch.float64)
    a = torch.cat([size[:, :2] * 1000, size[:, 2:3] * 90 + 9, size[:, 3:4] + 0.5, size[:, 4:]], 1)
    for turn in (1e-16, 1e-13, 1e-10, 1e-7, 1e-4):
        b = a.clone()
        b[:, 4] += turn
        p, q = cxcywhr_to_quad(a), cxcywhr_to_quad(b)
        difference = rotated_iou(p, q, aligned=True) - exact.ious(p, q)
        assert difference.abs().max() < 1e-10


COORDINATES = st.floats(-50, 50)
SIDES = st.floats(0.5, 60)
BOXES = st.tuples(COORDINATES, COORDINATES, SIDES, SIDES, st.floats(-180, 180))


@given(BOXES, BOXES, st.floats(-180, 180), COORDINATES, st.floats(0.1, 10), st.integers(0, 3))
def test_invariances(
    a: tuple, b: tuple, turn: float, shift: float, scale: float, start: int
) -> None:
    p, q = boxes(a), boxes(b)
    value = rotated_iou(p, q, fmt="cxcywhr").item()
    assert 0 <= value <= 1
    same = {"swap": rotated_iou(q, p, fmt="cxcywhr")}
    quads = torch.cat([cxcywhr_to_quad(p), cxcywhr_to_quad(q)])
    radians = torch.tensor(math.radians(turn), dtype=torch.float64)
    cos, sin = radians.cos(), radians.sin()
    rotation = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
    moved = quads @ rotation + shift
    same["motion"] = rotated_iou(moved[:1], moved[1:])
    same["scale"] = rotated_iou(quads[:1] * scale, quads[1:] * scale)
    same["mirror"] = rotated_iou(*(quads * torch.tensor([-1, 1])).split(1))
    same["labels"] = rotated_iou(quads[:1].roll(start, 1), quads[1:].flip(1).roll(1, 1))
    half = p + torch.tensor([0, 0, 0, 0, math.pi], dtype=torch.float64)
    quarter = p[:, [0, 1, 3, 2, 4]] + (half - p) / 2
    same["half a turn"] = rotated_iou(half, q, fmt="cxcywhr")
    same["sides"] = rotated_iou(quarter, q, fmt="cxcywhr")
    for name, other in same.items():
        assert abs(other.item() - value) < 1e-9, name


@given(BOXES)
def test_of_itself_it_is_one(a: tuple) -> None:
    quad = cxcywhr_to_quad(boxes(a))
    for other in (quad, quad.roll(1, 1), quad.flip(1)):
        assert rotated_iou(quad, other).item() > 1 - 1e-9


def test_thin_boxes_far_from_the_origin() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(20_000, 5, generator=generator)
    a = torch.stack(
        [u[:, 0] + 999, u[:, 1] + 999, u[:, 2] * 200 + 9, u[:, 3] + 0.1, u[:, 4] * 7], 1
    )
    assert rotated_iou(a.double(), a.double(), "cxcywhr", aligned=True).min() > 1 - 1e-10
    quads = cxcywhr_to_quad(a)
    assert (rotated_iou(quads, quads.flip(1), aligned=True) == 1).all()


def test_share_of_the_first_box() -> None:
    a, b = random_quads(40, seed=3), random_quads(40, seed=4)
    overlap, share = rotated_iou(a, b), rotated_iou(a, b, mode="iof")
    union = (quad_area(a)[:, None] + quad_area(b)) / (1 + overlap)
    torch.testing.assert_close(share, overlap * union / quad_area(a)[:, None])
    inside = torch.stack([SQUARE / 2, SQUARE / 2 + 7])
    expected = torch.tensor([[1.0], [0.36]])
    torch.testing.assert_close(rotated_iou(inside, SQUARE[None], mode="iof"), expected)


def test_generalized_overlap() -> None:
    a, b = random_quads(30, seed=5), random_quads(30, seed=6)
    b[:10] += 60
    b[10] = a[10]
    overlap = rotated_iou(a, b, aligned=True)
    union = (quad_area(a) + quad_area(b)) / (1 + overlap)
    points = torch.cat([a, b], 1)
    hull = torch.tensor([ConvexHull(p.numpy()).volume for p in points], dtype=torch.float64)
    value = rotated_iou(a, b, aligned=True, mode="giou")
    torch.testing.assert_close(value, overlap - (hull - union) / hull)
    assert value[:10].max() < 0
    assert abs(value[10] - 1) < 1e-12
    torch.testing.assert_close(rotated_iou(a, b, mode="giou").diagonal(), value)


def test_hull_of_points_above_one_another() -> None:
    points = torch.tensor([[0, 0], [0, 3], [0, 1], [2, 0], [2, 3], [2, 2], [1, 4], [1, 4]])
    assert hull_area(points[..., None].double()) == 7
    assert hull_area(points[:3, :, None].double()) == 0


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_gradient(mode: str) -> None:
    a = boxes((50, 50, 40, 20, 0.3), (10, 10, 8, 5, 20)).requires_grad_()
    b = boxes((50, 50, 40, 20, 30), (13, 12, 30, 5, 70)).requires_grad_()
    # the fourth of the worked values, a little off its symmetry, where corners cross no edge
    assert gradcheck(lambda p, q: rotated_iou(p, q, "cxcywhr", True, mode), (a, b))
    assert gradcheck(lambda p, q: rotated_iou(p, q, "cxcywhr", mode=mode), (a, b))


def test_gradient_of_the_worked_pair() -> None:
    a = boxes((50, 50, 40, 20, 0)).requires_grad_()
    b = boxes((50, 50, 40, 20, 30)).requires_grad_()
    assert gradcheck(lambda p, q: rotated_iou(p, q, "cxcywhr"), (a, b))


def test_gradients_are_finite_where_edges_coincide_or_nothing_is_left() -> None:
    point = torch.full((4, 2), 3.0)
    rows = [(SQUARE, SQUARE), (SQUARE, SQUARE + 10), (SQUARE, SQUARE + 99), (point, point)]
    for mode in ("iou", "iof", "giou"):
        a = torch.stack([row[0] for row in rows]).requires_grad_()
        b = torch.stack([row[1] for row in rows]).requires_grad_()
        value = rotated_iou(a, b, aligned=True, mode=mode)
        assert value.isfinite().all()
        value.sum().backward()
        assert a.grad.isfinite().all()
        assert b.grad.isfinite().all()


def test_dtypes_and_empty_lists() -> None:
    a = random_quads(3, seed=0)
    assert rotated_iou(a, a.float()).dtype == torch.float64
    assert rotated_iou(a.half(), a.half()).dtype == torch.float32
    assert rotated_iou(a.half(), a.half()).diagonal().min() > 1 - 1e-6
    for mode in ("iou", "giou"):
        assert rotated_iou(a[:0], a, mode=mode).shape == (0, 3)
        assert rotated_iou(a, a[:0], mode=mode).shape == (3, 0)
        assert rotated_iou(a[:0], a[:0], aligned=True, mode=mode).shape == (0,)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_quads(60, seed=7), random_quads(50, seed=8)
    whole = rotated_iou(a, b)
    monkeypatch.setattr(iou, "_CHUNK_CPU", 7)
    monkeypatch.setattr("framework.detection.rotated.overlap_candidates._CHUNK", 11)
    torch.testing.assert_close(rotated_iou(a, b), whole, atol=1e-15, rtol=0)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("chunk", [1, 50, 10_000])
def test_pairs_of_boxes_that_meet(groups: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framework.detection.rotated.overlap_candidates._CHUNK", chunk)
    generator = torch.Generator().manual_seed(groups)
    # on a coarse grid, so that many sides are equal
    a = torch.randint(12, (40, 4, 2), generator=generator).double()
    b = torch.randint(12, (30, 4, 2), generator=generator).double() + 3
    group_a = torch.randint(groups, (40,), generator=generator)
    group_b = torch.randint(groups, (30,), generator=generator)
    for p, q, g, h in ((a, b, group_a, group_b), (a, a, group_a, group_a)):
        meet = (p.amin(1)[:, None] <= q.amax(1)) & (q.amin(1) <= p.amax(1)[:, None])
        meet = meet.all(-1) & (g[:, None] == h)
        found = torch.stack(overlapping_pairs(p, q, g, h), 1)
        assert sorted(found.tolist()) == meet.nonzero().tolist()
    within = torch.stack(overlapping_pairs_within(a, group_a), 1)
    assert sorted(within.tolist()) == meet.triu(1).nonzero().tolist()
    assert overlapping_pairs_within(a[:0])[0].shape == (0,)


def test_bad_arguments_are_refused() -> None:
    a = SQUARE[None]
    with pytest.raises(ValueError, match="mode must be one of iou, iof, giou, got 'diou'"):
        rotated_iou(a, a, mode="diou")
    with pytest.raises(ValueError, match="fmt must be 'quad' or 'cxcywhr', got 'xyxy'"):
        rotated_iou(a, a, fmt="xyxy")
    with pytest.raises(ValueError, match="Aligned boxes must be as many, got 1 and 2"):
        rotated_iou(a, a.repeat(2, 1, 1), aligned=True)
    with pytest.raises(ValueError, match="one list of boxes each"):
        rotated_iou(SQUARE, a)
