"""Exact Pareto Optimal search: its equations, and where descending by it ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.gradients import EPO, Combination, GradientFacts


def facts(gradients: Tensor, losses: list[float] | Tensor) -> GradientFacts:
    names = tuple("abcdef"[: len(gradients)])
    values = torch.as_tensor(losses, dtype=torch.float64)
    return GradientFacts(names, gradients @ gradients.T, values, step=0)


def gradients(terms: int, size: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(terms, size)))


# ---- the equations ------------------------------------------------------------------------------


def test_the_non_uniformity_by_hand() -> None:
    """Shares 0.8 and 0.2: 0.8 log 1.6 + 0.2 log 0.4."""
    for preference, losses in (([1.0, 1.0], [4.0, 1.0]), ([2.0, 1.0], [2.0, 1.0])):
        found = EPO(preference).combination(facts(gradients(2, 3, 0), losses))
        assert found.logs["nonuniformity"] == pytest.approx(0.192745, abs=5e-7)
        assert found.logs["mode"] == 1


def test_the_balance_program_by_hand() -> None:
    """Losses (4, 1): a is (0.138629, -0.554518), half of (log 1.6, log 0.4) - 0.192745.

    The first term must not rise, the second may, by as much as along a.
    """
    rows = torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    found = EPO([1.0, 1.0]).combination(facts(rows, [4.0, 1.0]))
    a = 0.5 * (np.log([1.6, 0.4]) - 0.192745)
    pull = (rows @ rows.T).numpy() @ a
    assert pull == pytest.approx([0.693147, -2.911218], abs=1e-5)
    assert found.weights.tolist() == pytest.approx([1.0, 0.0])
    # gradients alike, of which neither helps: the one that harms least
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.1]], dtype=torch.float64)
    found = EPO([1.0, 1.0]).combination(facts(rows, [4.0, 1.0]))
    assert found.weights.tolist() == pytest.approx([1.0, 0.0])


def test_steps_along_the_anchor_lower_the_non_uniformity_fastest() -> None:
    """Its derivative in the losses is a, up to a factor: a step by autograd."""
    losses = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
    r = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    shares = r * losses / (r * losses).sum()
    mu = (shares * (3 * shares).log()).sum()
    (slope,) = torch.autograd.grad(mu, losses)
    anchor = r * ((3 * shares).log() - mu)
    torch.testing.assert_close(slope * (r * losses).sum(), anchor)
    # with orthonormal gradients the pull is the anchor, and the best vertex its largest entry
    found = EPO(r.tolist()).combination(facts(torch.eye(3).double(), losses.detach()))
    assert found.logs["nonuniformity"] == pytest.approx(mu.item())
    assert int(found.weights.argmax()) == int(anchor.argmax())


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 9999))
def test_what_each_mode_promises(terms: int, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, preference = gradients(terms, size, seed), 0.1 + rng.random(terms)
    gram = rows @ rows.T
    for balanced in (False, True):
        losses = 1 / preference if balanced else rng.random(terms)
        combiner = EPO(preference.tolist(), epsilon=1e-12)
        found = combiner.combination(facts(rows, torch.from_numpy(losses)))
        falls = gram @ found.weights / gram.abs().amax(1)
        assert found.logs["mode"] == (not balanced)
        assert found.scale == terms
        assert float(falls[(preference * losses).argmax()]) > -1e-6
        if balanced:
            assert float(falls.min()) > -1e-6


def test_descent_keeps_the_balance_where_it_can() -> None:
    """Nearly balanced: the total falls most along the second term, which is the smaller already."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    losses = [1.0005, 0.9995]
    held = EPO([1.0, 1.0], epsilon=1e-3).combination(facts(rows, losses))
    assert held.logs["mode"] == 0
    gram = (rows @ rows.T).numpy()
    shares = np.array(losses) / 2
    pull = gram @ (0.5 * (np.log(2 * shares) - shares @ np.log(2 * shares)))
    assert pull @ held.weights.numpy() >= -1e-12
    assert pull @ [0, 1] < -1e-4
    assert held.weights.tolist() == pytest.approx([0.8, 0.2], abs=1e-3)


# ---- where it ends ------------------------------------------------------------------------------


def descend(
    preference: list[float], centers: Tensor, epsilon: float, steps: int
) -> tuple[Tensor, Tensor, list[tuple[Tensor, Combination]]]:
    """Descend on the mean squared distances to ``centers`` with shrinking steps.

    Returns the point, the losses there and what each step saw and did.
    """
    combiner, history = EPO(preference, epsilon=epsilon), []
    x = torch.linspace(-0.9, 2, centers.shape[1], dtype=torch.float64)
    for step in range(steps):
        difference = x - centers
        rows = 2 * difference / len(x)
        given_facts = facts(rows, difference.square().mean(1))
        found = combiner.combination(given_facts)
        history.append((given_facts.gram, found))
        x = x - 0.3 / (1 + 0.01 * step) * found.scale * (found.weights @ rows)
    return x, (x - centers).square().mean(1), history


@pytest.mark.parametrize("preference", [[1.0, 1.0], [1.0, 4.0], [3.0, 1.0], [1.0, 25.0]])
def test_two_losses_end_on_the_front_in_the_proportion_asked_for(preference: list[float]) -> None:
    """Distances to 1 and -1: the front is the segment between, and r1 (1 - t)² = r2 (1 + t)²."""
    ones = torch.ones(5, dtype=torch.float64)
    x, losses, history = descend(preference, torch.stack([ones, -ones]), epsilon=1e-11, steps=500)
    root = math.sqrt(preference[0] / preference[1])
    torch.testing.assert_close(x, (root - 1) / (root + 1) * ones, rtol=0, atol=1e-5)
    weighted = torch.tensor(preference) * losses
    assert float(weighted.max() / weighted.min()) == pytest.approx(1, abs=2e-5)
    for gram, found in history:
        if found.logs["mode"] == 0:
            assert float((gram @ found.weights).min()) > -1e-12
    assert {found.logs["mode"] for _, found in history} == {0.0, 1.0}


@pytest.mark.parametrize("preference", [[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_three_losses_end_on_the_front_in_the_proportion_asked_for(preference: list[float]) -> None:
    """Distances to the corners of a triangle, in whose hull the front is."""
    centers = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    x, losses, _ = descend(preference, centers, epsilon=1e-11, steps=1000)
    weighted = torch.tensor(preference) * losses
    assert float(weighted.max() / weighted.min()) == pytest.approx(1, abs=2e-5)
    assert float(x[:3].sum()) == pytest.approx(1, abs=1e-12)
    assert float(x[:3].min()) > 0.05
    assert abs(float(x[3])) < 1e-12


def test_the_larger_epsilon_the_rougher_the_proportion() -> None:
    ones = torch.ones(5, dtype=torch.float64)
    errors = []
    for epsilon in (1e-2, 1e-4, 1e-8):
        _, losses, _ = descend([1.0, 4.0], torch.stack([ones, -ones]), epsilon, steps=500)
        errors.append(abs(float(4 * losses[1] / losses[0]) - 1))
        assert errors[-1] < 4 * math.sqrt(epsilon)
    assert errors[0] > errors[1] > errors[2]


# ---- invariances and limits ---------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(0, 9999), st.booleans())
def test_neither_the_size_of_the_preference_nor_of_the_losses_counts(
    terms: int, size: int, seed: int, balanced: bool
) -> None:
    rng = np.random.default_rng(seed)
    rows, preference = gradients(terms, size, seed), 0.1 + rng.random(terms)
    losses = torch.from_numpy(1 / preference if balanced else rng.random(terms))
    found = EPO(preference.tolist()).combination(facts(rows, losses))
    larger = EPO((64 * preference).tolist()).combination(facts(rows, losses))
    assert torch.equal(larger.weights, found.weights)
    all_larger = EPO(preference.tolist()).combination(facts(32 * rows, 32 * losses))
    assert torch.equal(all_larger.weights, found.weights)


def test_one_term_is_ordinary_descent() -> None:
    for preference in ([1.0], [1.0, 2.0]):
        found = EPO(preference).combination(facts(gradients(1, 3, 0), [math.nan]))
        assert found.weights.tolist() == [1.0]
        assert found.scale == 1.0


def test_losses_of_zero() -> None:
    """One of them is ahead of the balance, all of them are balanced."""
    rows = gradients(3, 5, 1)
    found = EPO([1.0, 1.0, 1.0]).combination(facts(rows, [0.0, 1.0, 1.0]))
    assert found.logs["nonuniformity"] == pytest.approx(math.log(1.5))
    assert found.weights.isfinite().all()
    assert abs(found.weights[0]) < 1e-9
    found = EPO([1.0, 1.0, 1.0]).combination(facts(0 * rows, [0.0, 0.0, 0.0]))
    assert found.logs["mode"] == 0
    assert found.weights.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_leaves_the_plain_sum(wrong: float) -> None:
    rows = gradients(2, 3, 0)
    bad = rows.clone()
    bad[0, 0] = wrong
    for case in (facts(rows, [wrong, 1.0]), facts(bad, [1.0, 1.0])):
        found = EPO([1.0, 2.0]).combination(case)
        assert (found.scale * found.weights).tolist() == [1.0, 1.0]
        assert found.logs["fallback"] == 3
        assert found.logs["feasible"] == 0


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preference": []}, r"preference must be positive numbers, one per term, got \[\]"),
        ({"preference": [1.0, 0.0]}, r"must be positive numbers, one per term, got \[1.0, 0.0\]"),
        ({"preference": [1.0, math.inf]}, "must be positive numbers"),
        ({"preference": [1.0], "epsilon": -1.0}, "epsilon must be at least 0, got -1.0"),
        ({"preference": [1.0], "scope": "all"}, "scope must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EPO(**arguments)


def test_terms_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has 2 numbers, but this step has 3 terms .*: a, b, c"):
        EPO([1.0, 2.0]).combination(facts(gradients(3, 4, 0), [1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"must not be negative, but 'b' is -0\.25"):
        EPO([1.0, 2.0]).combination(facts(gradients(2, 4, 0), [1.0, -0.25]))


def test_preferences_by_name_go_with_the_terms_that_pull():
    rows, losses = gradients(3, 4, 0), [2.0, 1.0, 0.5]
    by_place = EPO([3.0, 1.0, 2.0]).combination(facts(rows, losses))
    names = facts(rows, losses).names
    combiner = EPO(dict(zip(reversed(names), [2.0, 1.0, 3.0], strict=True)))
    by_name = combiner.combination(facts(rows, losses))
    assert torch.equal(by_name.weights, by_place.weights)
    two = combiner.combination(facts(rows[:2], losses[:2]))
    expected = EPO([3.0, 1.0]).combination(facts(rows[:2], losses[:2]))
    assert torch.equal(two.weights, expected.weights)
    with pytest.raises(ValueError, match=f"no number for the term {names[0]!r}"):
        EPO({"other": 1.0}).combination(facts(rows, losses))
