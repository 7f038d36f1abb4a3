"""Zipf's law: the worked numbers, the cap, the fit and whole budgets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.sparse_coding.zipf import fit_zipf, fit_zipf_tensors, integer_budgets, zipf_density

REAL = {
    0.0: [11.773982, 5.886991, 3.924661, 2.943495, 2.354796, 1.962330, 1.681997, 1.471748],
    2.7: [6.923949, 5.450768, 4.494493, 3.823673, 3.327092, 2.944668, 2.641094, 2.394263],
}
WHOLE = {0.0: [12, 6, 4, 3, 2, 2, 2, 1], 2.7: [7, 5, 5, 4, 3, 3, 3, 2]}


@pytest.mark.parametrize("beta", [0.0, 2.7])
def test_the_budgets_of_the_spec(beta: float) -> None:
    # F = 8 and K = 32, here of 16 tokens with k = 2
    real = 16 * zipf_density(8, 2.0, alpha=1.0, beta=beta)
    assert real.tolist() == pytest.approx(REAL[beta], abs=1e-6)
    assert integer_budgets(real, 32, 16).tolist() == WHOLE[beta]


def test_what_exceeds_the_cap_goes_to_the_rest_in_proportion() -> None:
    free = zipf_density(8, 0.5, alpha=1.0)
    capped = zipf_density(8, 5.0, alpha=1.0)
    assert capped[:2].tolist() == [1.0, 1.0]
    assert float(capped.sum()) == pytest.approx(5.0)
    assert (capped <= 1).all()
    ratio = capped[capped < 1] / free[capped < 1]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert zipf_density(8, 8.0, alpha=1.0).tolist() == [1.0] * 8


def test_exponent_zero_is_the_uniform_law() -> None:
    assert zipf_density(8, 2.0, alpha=0.0).tolist() == pytest.approx([0.25] * 8)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20), st.integers(1, 30), st.data())
def test_whole_budgets(weights: list[float], most: int, data: st.DataObject) -> None:
    features = len(weights)
    total = data.draw(st.integers(features, features * most))
    weight = torch.tensor(weights, dtype=torch.float64)
    real = (weight / weight.sum() * total).clamp(max=most)
    whole = integer_budgets(real, total, most)
    assert int(whole.sum()) == total
    assert int(whole.min()) >= 1
    assert int(whole.max()) <= most


def test_the_forced_minimum_is_taken_from_those_who_have_most_to_spare() -> None:
    real = torch.tensor([5.2, 2.1, 0.4, 0.3])
    assert integer_budgets(real, 8, 10).tolist() == [5, 1, 1, 1]


def test_budgets_move_with_their_features() -> None:
    real = torch.rand(50, generator=torch.Generator().manual_seed(0)).double()
    real *= 400 / real.sum()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(integer_budgets(real, 400, 20)[order], integer_budgets(real[order], 400, 20))


def test_the_fit_sees_the_body_and_not_the_tail() -> None:
    law = zipf_density(2000, 8.0, alpha=1.1, beta=50.0)
    drooping = law.clone()
    drooping[1700:] *= 0.01
    drooping = torch.cat([drooping, torch.zeros(500)])
    shuffled = drooping[torch.randperm(2500, generator=torch.Generator().manual_seed(0))]
    fit = fit_zipf(shuffled)
    assert (fit.alpha, fit.beta, fit.r2) == (
        pytest.approx(1.1, abs=1e-6),
        50.0,
        pytest.approx(1.0, abs=1e-9),
    )


def test_on_a_device_nothing_is_looked_at() -> None:
    """A look at a number of a GPU makes the GPU wait, and cannot be taken on ``meta``."""
    density = torch.rand(50, device="meta")
    alpha, beta, r2 = fit_zipf_tensors(density)
    assert {value.device.type for value in (alpha, beta, r2)} == {"meta"}
    assert zipf_density(50, 4.0, alpha, beta).device.type == "meta"
    measured = zipf_density(50, 4.0, 1.2, 5.0)
    alpha, beta, r2 = fit_zipf_tensors(measured)
    fit = fit_zipf(measured)
    assert (alpha.item(), beta.item(), r2.item()) == (fit.alpha, fit.beta, fit.r2)
    assert fit.alpha == pytest.approx(1.2)
    torch.testing.assert_close(zipf_density(50, 4.0, alpha, beta), measured)


def test_a_uniform_density_has_exponent_zero() -> None:
    assert fit_zipf(torch.full((100,), 0.1)).alpha == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: zipf_density(8, 9.0), r"k must be in \(0, 8\]"),
        (lambda: zipf_density(8, 2.0, alpha=-1.0), "alpha must be at least 0"),
        (lambda: zipf_density(8, 2.0, beta=-1.0), r"beta must lie in \(-1, inf\)"),
        (lambda: fit_zipf(torch.tensor([0.1, 0.2, 0.0])), "3 active features"),
        (lambda: integer_budgets(torch.ones(4), 3, 5), "cannot add up to 3"),
        (lambda: integer_budgets(torch.ones(4), 21, 5), "cannot add up to 21"),
    ],
)
def test_refuses(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
