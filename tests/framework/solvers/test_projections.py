"""Each projection gives the nearest point of its set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.solvers import AffineSet, Ball, Box, Polyhedron, Simplex, flat

SETS = {
    "box": Box(low=-0.5, high=torch.tensor([1.0, 0.2, 0.0])),
    "ball": Ball(radius=0.7),
    "simplex": Simplex(total=2.0),
    # the third equation follows from the others
    "affine": AffineSet(
        torch.tensor([[1.0, 1, 1], [1.0, -1, 0], [2, 0, 1]]).double(),
        torch.tensor([0.5, 0.5, 1.0]).double(),
    ),
    "polyhedron": Polyhedron(
        torch.tensor([[1.0, 2, 0], [-1, 0, 1], [0, -3, -1]]), torch.tensor([0.3, 0.1, 0.2])
    ),
}
vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)


@pytest.mark.parametrize("name", SETS)
@settings(deadline=None, max_examples=30)
@given(first=vectors, second=vectors)
def test_the_way_to_the_set_is_at_a_right_or_blunt_angle_to_all_its_points(name, first, second):
    nearest, other = SETS[name](first), SETS[name](second)
    assert float((first - nearest) @ (other - nearest)) < 1e-7
    assert SETS[name](nearest).tolist() == pytest.approx(nearest.tolist(), abs=1e-7)


def test_they_are_in_their_sets():
    v = torch.tensor([3.0, -2.0, 0.4], dtype=torch.float64)
    assert SETS["box"](v).tolist() == [1.0, -0.5, 0.0]
    assert float(SETS["ball"](v).norm()) == pytest.approx(0.7)
    assert float(SETS["simplex"](v).sum()) == pytest.approx(2)
    a, b = SETS["affine"], SETS["polyhedron"]
    assert (a.matrix @ a(v)).tolist() == pytest.approx([0.5, 0.5, 1.0], abs=1e-12)
    assert (b.matrix @ b(v).numpy() - b.offset).max() < 1e-9


def test_points_of_a_set_stay():
    v = torch.tensor([0.1, 0.0, -0.1], dtype=torch.float64)
    for name in ("box", "ball", "polyhedron"):
        assert torch.equal(SETS[name](v), v)
    assert torch.equal(Ball(1.0)(torch.zeros(3)), torch.zeros(3))


def test_variables_are_projected_as_one_vector_in_place():
    x, y = torch.zeros(2), {"w": torch.ones(2, 1), "b": torch.tensor(4.0)}
    flat(AffineSet(torch.ones(5), 1.0))(x, y)
    assert x.tolist() == pytest.approx([-1, -1])
    assert y["w"].flatten().tolist() == pytest.approx([0, 0], abs=1e-6)
    assert float(y["b"]) == pytest.approx(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(), "needs low, high or both"),
        (lambda: Box(low=1.0, high=0.0), "lies above high"),
        (lambda: Ball(0.0), "radius must be"),
        (lambda: AffineSet(torch.ones(2, 2), torch.tensor([0.0, 1.0])), "No vector satisfies"),
        (lambda: Polyhedron(torch.ones(2, 2), torch.ones(3)), r"offset \(p,\)"),
        (
            lambda: Polyhedron(torch.tensor([[1.0], [-1.0]]), torch.tensor([-1.0, -1.0]))(
                torch.zeros(1)
            ),
            "No vector satisfies all inequalities",
        ),
    ],
)
def test_what_is_no_set_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
