"""The program steered by held-out data: the spec's worked cases, invariances and fallbacks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.gradients import GradientFacts, HeldOutGuidedLP
from framework.gradients.held_out_lp import Mode
from framework.objectives.errors import IncompatibleError

MODES: tuple[Mode, ...] = ("descent", "guidance", "auto")


def products(gradients: list[list[float]], guide: list[float]) -> tuple[Tensor, Tensor]:
    rows, g = (torch.tensor(x, dtype=torch.float64) for x in (gradients, guide))
    return rows @ rows.T, rows @ g


def random_products(terms: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(terms, size)) * 10 ** rng.uniform(-1, 1, size=(terms, 1))
    return torch.from_numpy(rows @ rows.T), torch.from_numpy(rows @ rng.normal(size=size))


def facts(gram: Tensor, guide: Tensor | None = None, loss: float | None = None) -> GradientFacts:
    names = tuple("abcdef"[: len(gram)])
    return GradientFacts(names, gram, torch.ones(len(gram)).double(), 0, guide, loss)


CASES: dict[str, tuple[list[list[float]], list[float]]] = {
    "A": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1, 2, 3]),
    "B": ([[1, 0], [-0.5, 1], [0.2, 0.3]], [0.3, 1]),
    "C": ([[1, 0], [0, 1], [1, 1]], [-1, -0.5]),
    "D": ([[2, 0], [-1, 1], [0, -1]], [2, 0]),
    "E": ([[1, 0], [-0.5, 1]], [-0.1, -1]),
}

# ---- the cases of the spec ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "guide", "weights", "changes", "value"),
    [
        ("A", [1, 2, 3], [0, 0, 1], [0, 0, 1], 3),
        ("B", [0.3, 0.85, 0.36], [0, 1, 0], [-0.5, 1.25, 0.2], 0.85),
        ("C", [-1, -0.5, -1.5], [0, 1, 0], [0, 1, 1], -0.5),
        ("D", [4, -2, 0], [1, 0, 0], [4, -2, 0], 4),
    ],
)
def test_guidance(
    case: str, guide: list[float], weights: list[float], changes: list[float], value: float
) -> None:
    gram, a = products(*CASES[case])
    assert a.tolist() == pytest.approx(guide)
    solution = HeldOutGuidedLP(mode="guidance").solve(gram, a)
    assert solution.weights.tolist() == pytest.approx(weights, abs=1e-9)
    assert (gram @ solution.weights).tolist() == pytest.approx(changes, abs=1e-9)
    assert float(a @ solution.weights) == pytest.approx(value)
    assert (solution.mode, solution.feasible, solution.fallback) == ("guidance", True, 0)


@pytest.mark.parametrize("constraint", [True, False])
def test_descent(constraint: bool) -> None:
    gram, a = products(*CASES["B"])
    solution = HeldOutGuidedLP(heldout_constraint=constraint).solve(gram, a)
    assert solution.weights.tolist() == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-9)
    assert (gram @ solution.weights).tolist() == pytest.approx([0, 0.666667, 0.2], abs=5e-7)
    assert float(gram.sum(0) @ solution.weights) == pytest.approx(0.866667, abs=5e-7)
    assert (solution.mode, solution.feasible, solution.fallback) == ("descent", True, 0)


def test_descent_without_an_answer_is_solved_without_the_guide_and_says_so() -> None:
    gram, a = products(*CASES["E"])
    assert a.tolist() == pytest.approx([-0.1, -0.95])
    for constraint, fallback in ((True, 1), (False, 0)):
        solution = HeldOutGuidedLP(heldout_constraint=constraint).solve(gram, a)
        assert solution.weights.tolist() == pytest.approx([1 / 3, 2 / 3], abs=1e-9)
        assert (solution.feasible, solution.fallback) == (fallback == 0, fallback)


def test_the_constraint_on_the_guide_changes_the_weights() -> None:
    gram, a = products(*CASES["C"])
    free = HeldOutGuidedLP(heldout_constraint=False).weights(gram, a)
    assert free.tolist() == pytest.approx([0, 0, 1], abs=1e-9)
    # the guide rises by 1.5 along these, and must not by more than 0.5
    assert HeldOutGuidedLP().weights(gram, a).tolist() == pytest.approx([0, 1, 0], abs=1e-9)


# ---- which program ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "mode"), [(2e-3, "guidance"), (1e-3, "descent"), (0.0, "descent"), (-1.0, "descent")]
)
def test_auto_follows_the_guide_while_its_value_is_above_epsilon(loss: float, mode: Mode) -> None:
    gram, a = products(*CASES["B"])
    solution = HeldOutGuidedLP(mode="auto").solve(gram, a, loss)
    assert solution.mode == mode
    expected = HeldOutGuidedLP(mode=mode).weights(gram, a)
    assert torch.equal(solution.weights, expected)
    assert HeldOutGuidedLP(mode="auto", epsilon=0.01).solve(gram, a, loss).mode == "descent"


def test_the_other_modes_do_not_ask_for_the_value() -> None:
    gram, a = products(*CASES["B"])
    for mode in ("descent", "guidance"):
        for loss in (None, 0.0, 5.0):
            assert HeldOutGuidedLP(mode=mode).solve(gram, a, loss).mode == mode
    with pytest.raises(ValueError, match="mode 'auto' needs guide_loss"):
        HeldOutGuidedLP(mode="auto").solve(gram, a)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("guide", "loss"), [(None, None), (math.nan, 1.0), (math.inf, 1.0), (0.5, math.nan)]
)
def test_without_a_usable_guide_the_terms_descend(
    mode: Mode, guide: float | None, loss: float | None
) -> None:
    gram, a = products(*CASES["C"])
    if guide is not None:
        a[0] = guide
    solution = HeldOutGuidedLP(mode=mode).solve(gram, None if guide is None else a, loss)
    assert solution.weights.tolist() == pytest.approx([0, 0, 1], abs=1e-9)
    assert (solution.mode, solution.feasible, solution.fallback) == ("descent", False, 1)


def test_a_guide_that_is_not_asked_for_is_not_missed() -> None:
    gram, _ = products(*CASES["C"])
    solution = HeldOutGuidedLP(heldout_constraint=False).solve(gram)
    assert (solution.feasible, solution.fallback) == (True, 0)


# ---- limits and invariances ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("square", [0.3, 0.0, math.nan])
@pytest.mark.parametrize("mix", [0.0, 0.1, 0.3, 0.7])
def test_one_term_is_ordinary_descent_to_the_last_bit(
    mode: Mode, square: float, mix: float
) -> None:
    gram, a = torch.tensor([[square]]).double(), torch.tensor([-0.7]).double()
    found = HeldOutGuidedLP(mode=mode, mix=mix).combination(facts(gram, a, 1.0))
    assert found.weights.tolist() == [1.0]
    assert found.scale == 1.0
    assert found.logs["fallback"] == 0


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 9999), st.sampled_from(MODES))
def test_identical_gradients_give_their_own_direction(terms: int, seed: int, mode: Mode) -> None:
    generator = torch.Generator().manual_seed(seed)
    row, guide = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    rows = row.expand(terms, 5)
    found = HeldOutGuidedLP(mode=mode).combination(facts(rows @ rows.T, rows @ guide, 1.0))
    torch.testing.assert_close(found.scale * found.weights @ rows, rows.sum(0))
    if terms <= 4:
        torch.testing.assert_close(found.weights, torch.full_like(found.weights, 1 / terms))


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 9999), st.sampled_from(MODES))
def test_scaling_terms_and_guide_alike_changes_nothing(
    terms: int, size: int, seed: int, mode: Mode
) -> None:
    gram, a = random_products(terms, size, seed)
    combiner = HeldOutGuidedLP(mode=mode)
    expected = combiner.weights(gram, a, 1.0)
    for factor in (2.0**-30, 2.0**30):
        assert torch.equal(combiner.weights(factor * gram, factor * a, 1.0), expected)
    close = combiner.weights(1e7 * gram, 1e7 * a, 1.0)
    if terms <= 4:  # beyond, another of several best vertices may be found
        torch.testing.assert_close(close, expected, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 9999))
def test_the_size_of_the_guide_does_not_count_in_a_descent(
    terms: int, size: int, seed: int
) -> None:
    """Hence it may belong to another space than the terms, with scope 'representation'."""
    gram, a = random_products(terms, size, seed)
    combiner = HeldOutGuidedLP(scope="representation")
    for factor in (2.0**-30, 2.0**30):
        assert torch.equal(combiner.weights(gram, factor * a), combiner.weights(gram, a))


def test_the_size_of_the_guide_counts_under_guidance() -> None:
    """The first term, which opposes the guide, may rise by as much as the guide would make it."""
    gram, a = products([[1, 0], [-1, 0.5]], [-0.2, 1])
    assert a.tolist() == pytest.approx([-0.2, 0.7])
    for factor, second in ((1.0, 0.6), (0.1, 0.51), (10.0, 1.0)):
        weights = HeldOutGuidedLP(mode="guidance").weights(gram, factor * a)
        assert weights.tolist() == pytest.approx([1 - second, second], abs=1e-9)


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 6), st.integers(1, 7), st.integers(0, 9999), st.sampled_from(MODES))
def test_what_is_promised_of_every_step(terms: int, size: int, seed: int, mode: Mode) -> None:
    gram, a = random_products(terms, size, seed)
    solution = HeldOutGuidedLP(mode=mode).solve(gram, a, 1.0)
    assert float(solution.weights.min()) >= 0
    assert float(solution.weights.sum()) == pytest.approx(1)
    falls = gram @ solution.weights / gram.abs().amax(1)
    assert float(falls[a.argmax()]) > -1e-6
    if solution.mode == "descent" or not (a > 0).any():
        assert float(falls.min()) > -1e-6


# ---- nothing to weigh ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_zero_weigh_equally(mode: Mode) -> None:
    zero = torch.zeros(3, 3, dtype=torch.float64)
    solution = HeldOutGuidedLP(mode=mode).solve(zero, zero[0], 1.0)
    assert solution.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert solution.feasible


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_the_plain_sum(mode: Mode, wrong: float) -> None:
    gram, a = products(*CASES["B"])
    gram[1, 2] = wrong
    found = HeldOutGuidedLP(mode=mode).combination(facts(gram, a, 1.0))
    assert (found.scale * found.weights).tolist() == [1.0, 1.0, 1.0]
    assert found.logs["feasible"] == 0
    assert found.logs["fallback"] == 3


# ---- what the step gets -------------------------------------------------------------------------


def test_equal_weights_are_the_plain_sum_unless_a_mean_is_wanted() -> None:
    gram, a = products(*CASES["A"])
    for rescale, scale in ((True, 3.0), (False, 1.0)):
        found = HeldOutGuidedLP(rescale=rescale).combination(facts(gram, a))
        assert found.scale == scale
        assert found.weights.tolist() == pytest.approx([1 / 3] * 3)


def test_plain_terms_are_added_to_the_weights() -> None:
    gram, a = products(*CASES["D"])
    plain = HeldOutGuidedLP(mode="guidance", plain_terms=["a", "b"])
    found = plain.combination(facts(gram, a))
    # three times (1, 0, 0), and the first two once more
    assert found.factors.tolist() == pytest.approx([4.0, 1.0, 0.0])
    assert found.weights.tolist() == pytest.approx([1.0, 0.0, 0.0])
    # a term that does not pull at this step is not among the facts
    assert plain.combination(facts(gram[1:2, 1:2])).factors.tolist() == [2.0]


def test_a_plain_term_that_the_run_does_not_have_is_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"names 'align', .* terms, classification, align"):
        HeldOutGuidedLP(plain_terms=["align"]).check_terms(["classification", "alignment"])


def test_mix_spreads_its_share() -> None:
    gram, a = products(*CASES["A"])
    for mix, expected in ((0.3, [0.1, 0.1, 0.8]), (1.0, [1 / 3] * 3)):
        weights = HeldOutGuidedLP(mode="guidance", mix=mix).weights(gram, a)
        assert weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("mode", "case", "logs"),
    [
        ("descent", "B", {"mode": 0, "feasible": 1, "fallback": 0, "vertex": 0}),
        ("guidance", "B", {"mode": 1, "feasible": 1, "fallback": 0, "vertex": 1}),
        ("descent", "E", {"mode": 0, "feasible": 0, "fallback": 1, "vertex": 0}),
        ("auto", "B", {"mode": 1, "feasible": 1, "fallback": 0, "vertex": 1}),
    ],
)
def test_what_is_logged(mode: Mode, case: str, logs: dict[str, float]) -> None:
    gram, a = products(*CASES[case])
    found = HeldOutGuidedLP(mode=mode).combination(facts(gram, a, 0.5))
    assert found.logs == logs
    assert found.weights.dtype == torch.float64


def test_single_precision_and_gradients_of_the_inputs_are_left_behind() -> None:
    gram, a = products(*CASES["B"])
    found = HeldOutGuidedLP().weights(gram.float().requires_grad_(), a.float())
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert found.tolist() == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-6)


def test_it_asks_for_a_guide_and_has_no_state() -> None:
    assert HeldOutGuidedLP.guided
    assert HeldOutGuidedLP().state_dict() == {}
    assert HeldOutGuidedLP(every_n_steps=4).every_n_steps == 4


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "ascent"}, "mode must be one of descent, guidance, auto, got 'ascent'"),
        ({"epsilon": -1e-3}, "epsilon must be at least 0, got -0.001"),
        ({"epsilon": math.nan}, "epsilon must be finite and at least 0, got nan"),
        ({"mix": 1.5}, r"mix must lie in \[0, 1\], got 1.5"),
        ({"scope": "features"}, "scope must be one of exact, representation"),
        ({"every_n_steps": 0}, "every_n_steps must be at least 1"),
        ({"scope": "representation", "mode": "auto"}, "Mode 'auto' compares the size of the guide"),
        ({"scope": "representation", "mode": "guidance"}, "take mode 'descent' or scope 'exact'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeldOutGuidedLP(**arguments)


@pytest.mark.parametrize(("gram", "guide"), [((2, 3), None), ((3, 3), (2,)), ((3,), None)])
def test_shapes_that_do_not_fit_are_refused(
    gram: tuple[int, ...], guide: tuple[int, ...] | None
) -> None:
    with pytest.raises(ValueError, match=r"takes a gram \(m, m\) and a guide \(m,\), got"):
        HeldOutGuidedLP().solve(torch.ones(gram), None if guide is None else torch.ones(guide))
