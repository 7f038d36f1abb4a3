"""What the programs of Exact Pareto Optimal search promise, on random gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.gradients.pareto_lp import (
    EQUAL,
    MIN_NORM,
    WITHOUT_PULL,
    Array,
    Solution,
    descent,
    equal,
    guidance,
)

cases = given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 9999), st.booleans())


def random_case(terms: int, size: int, seed: int, alike: bool) -> tuple[Array, Array]:
    """Return the inner products of gradients, some of them opposed or alike, and a pull."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(terms, size)) * 10 ** rng.uniform(-1, 1, size=(terms, 1))
    if alike:
        rows[-1] = rng.choice([-2.0, 1.0]) * rows[0]
    return rows @ rows.T, rows @ rng.normal(size=size)


def relative(gram: Array, w: Array) -> Array:
    """Return Cw, each entry relative to the largest of its row."""
    return gram @ w / np.abs(gram).max(axis=1)


@settings(deadline=None, max_examples=200)
@cases
def test_in_a_descent_no_term_rises(terms: int, size: int, seed: int, alike: bool) -> None:
    gram, pull = random_case(terms, size, seed, alike)
    for solution in (descent(gram), descent(gram, pull)):
        assert relative(gram, solution.weights).min() > -1e-6
        assert solution.weights.min() >= 0
        assert solution.weights.sum() == pytest.approx(1)
        assert solution.fallback in (0, WITHOUT_PULL)


@settings(deadline=None, max_examples=200)
@cases
def test_the_pull_is_met_or_given_up(terms: int, size: int, seed: int, alike: bool) -> None:
    gram, pull = random_case(terms, size, seed, alike)
    free, held = descent(gram), descent(gram, pull)
    least, slack = min(pull.max(), 0), 1e-6 * np.abs(pull).max()
    total = gram.sum(axis=0)
    if held.fallback == 0:
        assert pull @ held.weights >= least - slack
        assert total @ held.weights <= total @ free.weights + 1e-6 * np.abs(total).max()
    else:
        assert np.array_equal(held.weights, free.weights)
        assert pull @ free.weights < least + slack
    if pull @ free.weights > least + slack:
        assert held.fallback == 0
        assert total @ held.weights == pytest.approx(
            total @ free.weights, abs=1e-6 * np.abs(total).max()
        )


def test_the_pull_is_often_given_up_and_often_changes_the_weights() -> None:
    """Else the properties above would show little."""
    given_up = changed = 0
    for seed in range(200):
        gram, pull = random_case(3, 3, seed, alike=False)
        free, held = descent(gram), descent(gram, pull)
        given_up += held.fallback == WITHOUT_PULL
        changed += held.fallback == 0 and np.abs(held.weights - free.weights).max() > 1e-3
    assert given_up > 10
    assert changed > 10


@settings(deadline=None, max_examples=200)
@cases
def test_under_guidance_only_terms_that_help_may_rise(
    terms: int, size: int, seed: int, alike: bool
) -> None:
    gram, pull = random_case(terms, size, seed, alike)
    solution = guidance(gram, pull, pull == pull.max())
    assert solution.fallback == 0
    rise, scale = -gram @ solution.weights, np.abs(gram).max(axis=1)
    for j in range(terms):
        if not (pull > 0).any() or j == pull.argmax():
            assert rise[j] < 1e-6 * scale[j]
        elif pull[j] <= 0:
            assert rise[j] < -pull[j] + 1e-6 * scale[j]


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 9999))
def test_where_no_term_helps_none_rises(terms: int, seed: int) -> None:
    gram, _ = random_case(terms, 8, seed, alike=False)
    pull = -np.random.default_rng(seed).random(terms)
    pull[seed % terms] = 0
    solution = guidance(gram, pull, pull == pull.max())
    assert relative(gram, solution.weights).min() > -1e-6


def test_under_guidance_some_term_that_helps_often_rises() -> None:
    """By design."""
    rises = 0
    for seed in range(200):
        gram, pull = random_case(3, 5, seed, alike=False)
        w = guidance(gram, pull, pull == pull.max()).weights
        rises += (gram @ w).min() < -1e-3
    assert rises > 100


def test_no_weights_of_a_grid_are_better() -> None:
    grid = [np.array([i, j, 40 - i - j]) / 40 for i in range(41) for j in range(41 - i)]
    for seed in range(20):
        gram, pull = random_case(3, 4, seed, alike=False)
        total, helps = gram.sum(axis=0), pull > 0
        bounds = np.where(helps, -np.inf, pull) if helps.any() else np.zeros(3)
        bounds[pull.argmax()] = 0
        down, guided = descent(gram), guidance(gram, pull, pull == pull.max())
        for w in grid:
            if (gram @ w >= 0).all():
                assert total @ w <= total @ down.weights + 1e-9 * np.abs(total).max()
            if (gram @ w >= bounds).all():
                assert pull @ w <= pull @ guided.weights + 1e-9 * np.abs(pull).max()


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 9999), st.data())
def test_the_order_of_the_terms_does_not_matter(
    terms: int, size: int, seed: int, data: st.DataObject
) -> None:
    """Of small integers, so that many gradients are equal, opposed or 0."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, size=(terms, size)).astype(float)
    order = data.draw(st.permutations(range(terms)))
    gram, pull = rows @ rows.T, rows @ rng.integers(-2, 3, size=size)
    moved, moved_pull = gram[order][:, order], pull[order]
    for solution, other in (
        (descent(gram), descent(moved)),
        (descent(gram, pull), descent(moved, moved_pull)),
        (
            guidance(gram, pull, pull == pull.max()),
            guidance(moved, moved_pull, moved_pull == pull.max()),
        ),
    ):
        assert other.fallback == solution.fallback
        assert other.weights == pytest.approx(solution.weights[order], abs=1e-7)


def test_weights_that_rounding_alone_keeps_from_0() -> None:
    """Of all weights that meet the constraints the first is 0, and it alone counts."""
    rows = np.array([[1.0, -2.0], [0.0, 2.0], [0.0, -1.0], [0.0, 1.0]])
    pull = np.array([3.0, -4.0, 2.0, -2.0])
    solution = descent(rows @ rows.T, pull)
    assert solution.weights == pytest.approx(np.array([0, 1, 4, 2]) / 7, abs=1e-9)


def test_the_shortest_mean_replaces_what_rounding_hides() -> None:
    """Products of opposed gradients, wrong in the seventh digit as those in float32."""
    gram = np.array([[1.0, -1.0 - 1e-7], [-1.0 - 1e-7, 1.0]])
    for solution in (descent(gram), descent(gram, np.ones(2))):
        assert solution.fallback == MIN_NORM
        assert solution.weights == pytest.approx([0.5, 0.5], abs=1e-6)
    pull = np.array([-1.0, -2.0])
    assert guidance(gram, pull, pull == -1).fallback == MIN_NORM


def test_without_gradients_terms_weigh_equally() -> None:
    for terms in (2, 3, 4):
        zero = np.zeros((terms, terms))
        for solution in (
            descent(zero),
            descent(zero, zero[0]),
            guidance(zero, zero[0], zero[0] == 0),
        ):
            assert solution.weights == pytest.approx(1 / terms)
            assert solution.fallback == 0


def test_equal_weights() -> None:
    assert equal(4).weights.tolist() == [0.25] * 4
    assert equal(4).fallback == EQUAL
    assert Solution(np.ones(1)).fallback == 0


def test_a_term_that_neither_helps_nor_hurts_is_held_to_its_bound() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 1.0]])
    pull = rows @ np.ones(2)
    assert pull.tolist() == [1.0, 0.0]
    solution = guidance(rows @ rows.T, pull, pull == pull.max())
    assert solution.weights == pytest.approx([2 / 3, 1 / 3], abs=1e-9)
