"""The shortest weighted mean of gradients: closed forms, optimality, and degenerate cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.gradients.min_norm import Array, min_norm_weights


def gradients(terms: int, size: int, seed: int, spread: float = 1.0) -> Array:
    """Return rows whose lengths differ by up to ``10 ** (2 * spread)``."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(terms, size)) * 10 ** rng.uniform(-spread, spread, size=(terms, 1))


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 999), st.booleans())
def test_no_other_weights_are_better(terms: int, size: int, seed: int, opposed: bool) -> None:
    """The conditions of optimality: Cw is least, and equal, where w is not 0."""
    rows = gradients(terms, size, seed)
    if opposed and terms > 1:
        rows[1] = -0.7 * rows[0]
    gram = rows @ rows.T
    w = min_norm_weights(gram)
    assert w.min() >= 0
    assert w.sum() == pytest.approx(1, abs=1e-14)
    slack = (gram @ w - w @ gram @ w) / (np.sqrt(np.diag(gram)) * np.sqrt(np.diag(gram).min()))
    assert slack.min() > -1e-6
    assert np.abs(slack * w).max() < 1e-6


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(0, 999))
def test_two_gradients_have_a_closed_form(size: int, seed: int) -> None:
    rows = gradients(2, size, seed)
    difference = rows[1] - rows[0]
    first = np.clip(difference @ rows[1] / (difference @ difference), 0, 1)
    assert min_norm_weights(rows @ rows.T) == pytest.approx([first, 1 - first], abs=1e-9)


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e8])
def test_orthogonal_gradients_weigh_by_the_inverse_of_their_square(ratio: float) -> None:
    squares = np.array([1.0, 2.0, ratio])
    expected = (1 / squares) / (1 / squares).sum()
    np.testing.assert_allclose(min_norm_weights(np.diag(squares)), expected, rtol=1e-9)


def test_zero_in_the_hull_is_found() -> None:
    triangle = np.array([[2.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])
    w = min_norm_weights(triangle @ triangle.T)
    np.testing.assert_allclose(w, [0.2, 0.4, 0.4], atol=1e-9)
    np.testing.assert_allclose(w @ triangle, 0, atol=1e-9)


def test_terms_without_gradient_share_the_weight() -> None:
    assert min_norm_weights(np.zeros((3, 3))) == pytest.approx([1 / 3] * 3)
    some = min_norm_weights(np.diag([1.0, 0.0, 4.0, 0.0]))
    assert some == pytest.approx([0, 0.5, 0, 0.5], abs=1e-12)
    assert min_norm_weights(np.array([[4.0]])) == pytest.approx([1])


def test_a_common_factor_does_not_count() -> None:
    rows = gradients(4, 6, 0)
    w = min_norm_weights(rows @ rows.T)
    assert w.max() < 0.99
    for factor in (2.0**-60, 2.0**40):
        assert np.array_equal(min_norm_weights(factor * rows @ rows.T), w)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0)])
def test_what_is_no_square_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gram must be"):
        min_norm_weights(np.ones(shape))
