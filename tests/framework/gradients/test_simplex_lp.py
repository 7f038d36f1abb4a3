"""Linear programs over the simplex: as another solver finds, and what is best of several."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from framework.gradients.simplex_lp import LARGEST_ENUMERATED, Array, maximize_on_simplex


def problem(variables: int, constraints: int, seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(constraints, variables)) * 10 ** rng.uniform(-3, 3, (constraints, 1))
    bounds = 0.3 * rng.normal(size=constraints) * np.abs(rows).max(axis=1, initial=0)
    return rng.normal(size=variables), rows, bounds


def reference(c: Array, rows: Array, bounds: Array) -> float | None:
    """Return the optimum as scipy finds it, from rows scaled to its absolute tolerance."""
    scale = np.abs(rows).max(axis=1, initial=0)
    result = linprog(
        -c,
        A_ub=-rows / scale[:, None],
        b_ub=-bounds / scale,
        A_eq=np.ones((1, len(c))),
        b_eq=[1],
        method="highs",
    )
    return -result.fun if result.success else None


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 6), st.integers(0, 7), st.integers(0, 9999))
def test_the_optimum_is_that_of_linprog(variables: int, constraints: int, seed: int) -> None:
    c, rows, bounds = problem(variables, constraints, seed)
    w, optimum = maximize_on_simplex(c, rows, bounds), reference(c, rows, bounds)
    assert (w is None) == (optimum is None)
    if w is not None:
        assert c @ w == pytest.approx(optimum, abs=1e-7)
        assert w.min() >= 0
        assert w.sum() == pytest.approx(1, abs=1e-14)
        assert ((rows @ w - bounds) / np.abs(rows).max(axis=1, initial=1) > -1e-7).all()


def test_both_outcomes_occur_above() -> None:
    """Else the comparison would show little."""
    found = [reference(*problem(3, 3, seed)) is not None for seed in range(100)]
    assert 20 < sum(found) < 80


def test_without_constraints_the_largest_entry_wins() -> None:
    for m in (1, 3, 6):
        c = np.arange(m, dtype=float)
        w = maximize_on_simplex(c, np.zeros((0, m)), np.zeros(0))
        assert w is not None
        assert w.tolist() == pytest.approx([0.0] * (m - 1) + [1.0], abs=1e-9)


def test_a_constraint_that_no_weights_meet() -> None:
    for m in (1, 2, 6):
        row = np.ones((1, m))
        assert maximize_on_simplex(np.ones(m), row, np.array([1.01])) is None
        assert maximize_on_simplex(np.ones(m), 0 * row, np.array([1e-6])) is None
        # met by all, with nothing to spare
        for bound in (row, 0 * row):
            assert maximize_on_simplex(np.ones(m), bound, bound[:, 0]) is not None


def test_of_several_best_the_nearest_to_equal_ones() -> None:
    none = np.zeros((0, 3))
    for c, expected in (
        ([0.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]),
        ([5.0, 5.0, 5.0], [1 / 3, 1 / 3, 1 / 3]),
        ([5.0, 4.0, 5.0], [0.5, 0.0, 0.5]),
    ):
        w = maximize_on_simplex(np.array(c), none, np.zeros(0))
        assert w == pytest.approx(expected, abs=1e-12)
    # on the edge from (1, 0, 0) to (1/4, 3/4, 0), of which half and half is a part
    w = maximize_on_simplex(np.array([1.0, 1, 0]), np.array([[3.0, -1, 0]]), np.zeros(1))
    assert w == pytest.approx([0.5, 0.5, 0], abs=1e-12)
    w = maximize_on_simplex(np.array([1.0, 1, 0]), np.array([[1.0, -2, 0]]), np.zeros(1))
    assert w == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, LARGEST_ENUMERATED), st.integers(0, 3), st.integers(0, 9999), st.data())
def test_the_order_does_not_matter(
    variables: int, constraints: int, seed: int, data: st.DataObject
) -> None:
    """Small integers, so that several best points and empty interiors are common."""
    rng = np.random.default_rng(seed)
    c = rng.integers(-1, 2, variables).astype(float)
    rows = rng.integers(-2, 3, (constraints, variables)).astype(float)
    rows = np.concatenate([rows, -rows[:1]])
    w = maximize_on_simplex(c, rows, np.zeros(len(rows)))
    order = data.draw(st.permutations(range(variables)))
    other = data.draw(st.permutations(range(len(rows))))
    moved = maximize_on_simplex(c[order], rows[other][:, order], np.zeros(len(rows)))
    assert (w is None) == (moved is None)
    if w is not None and moved is not None:
        assert moved == pytest.approx(w[order], abs=1e-7)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 9999))
def test_neither_the_size_of_the_objective_nor_of_a_row_counts(
    variables: int, constraints: int, seed: int
) -> None:
    c, rows, bounds = problem(variables, constraints, seed)
    w = maximize_on_simplex(c, rows, bounds)
    factor = 2.0 ** np.random.default_rng(seed).integers(-40, 40, constraints)
    scaled = maximize_on_simplex(2.0**30 * c, factor[:, None] * rows, factor * bounds)
    assert (w is None) == (scaled is None)
    if w is not None and scaled is not None:
        assert np.array_equal(w, scaled)


@pytest.mark.parametrize("ratio", [1e-9, 1e-3, 1e3, 1e9])
def test_coefficients_of_very_different_size(ratio: float) -> None:
    """As of gradients of very different length, w1 at least half of w2 times the ratio."""
    w = maximize_on_simplex(np.array([0.0, 1.0]), np.array([[1.0, -ratio / 2]]), np.zeros(1))
    expected = np.array([ratio / 2, 1]) / (1 + ratio / 2)
    np.testing.assert_allclose(w, expected, rtol=1e-9)


@pytest.mark.parametrize("gap", [1e-3, 1e-6])
def test_constraints_that_are_nearly_parallel(gap: float) -> None:
    """The difference of the first weight and the others is between 0 and gap (2 w2 - w1)."""
    rows = np.array([[1.0, -1.0, -1.0], [-1.0 - gap, 1.0 + 2 * gap, 1.0]])
    w = maximize_on_simplex(np.array([0.0, 0.0, 1.0]), rows, np.zeros(2))
    np.testing.assert_allclose(w, [0.5, 0.25, 0.25], rtol=1e-8)
