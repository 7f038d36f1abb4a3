"""Bayes' rule on class probabilities: the spec's rows, and what half precision must not break."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.adaptation.bayes_refinement import bayes_refine

P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]], dtype=torch.float64
)
Q = torch.tensor(
    [[0.9, 0.5, 0.2], [0.4, 0.8, 0.5], [0.5, 0.5, 0.5], [0.1, 0.9, 0.6]], dtype=torch.float64
)
RHO = torch.tensor(
    [
        [0.840000, 0.133333, 0.026667],
        [0.059701, 0.716418, 0.223881],
        [0.200000, 0.200000, 0.600000],
        [0.117647, 0.529412, 0.352941],
    ],
    dtype=torch.float64,
)


def random_logits(rows: int, classes: int, seed: int, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def test_the_rows_of_the_spec() -> None:
    torch.testing.assert_close(bayes_refine(P.log(), Q.log()).exp(), RHO, rtol=0, atol=5.1e-7)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(2, 7), st.integers(0, 99))
def test_it_is_bayes_rule_on_probabilities(rows: int, classes: int, seed: int) -> None:
    logits, other = random_logits(rows, classes, seed), random_logits(rows, classes, seed + 100)
    log_q = torch.nn.functional.logsigmoid(other)
    product = logits.softmax(1) * other.sigmoid()
    expected = product / product.sum(1, keepdim=True)
    rho = bayes_refine(logits, log_q).exp()
    torch.testing.assert_close(rho, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(rho.sum(1), torch.ones(rows, dtype=torch.float64))
    # neither a constant of the row's logits nor one of its q counts
    shifted = bayes_refine(logits + other[:, :1], log_q - 3.0)
    torch.testing.assert_close(shifted.exp(), rho, rtol=1e-12, atol=1e-15)


def test_a_constant_likelihood_changes_nothing() -> None:
    logits = random_logits(4, 3, 0)
    for q in (1.0, 0.5, 1e-30):
        refined = bayes_refine(logits, torch.full_like(logits, q).log())
        torch.testing.assert_close(refined, logits.log_softmax(1), rtol=1e-12, atol=1e-12)


def test_refining_twice_multiplies_the_likelihoods() -> None:
    twice = bayes_refine(bayes_refine(P.log(), Q.log()), Q.log())
    torch.testing.assert_close(twice, bayes_refine(P.log(), 2 * Q.log()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = random_logits(5, 4, 1, spread=1e4).to(dtype).requires_grad_()
    log_q = torch.nn.functional.logsigmoid(random_logits(5, 4, 2, spread=1e4)).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        refined = bayes_refine(logits, log_q)
    assert refined.dtype == torch.float32
    assert torch.equal(refined, bayes_refine(logits.float(), log_q.float()))
    assert refined.isfinite().all()
    refined.exp().square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_gradcheck_in_both_arguments() -> None:
    arguments = [random_logits(3, 4, seed).requires_grad_() for seed in (3, 4)]
    assert torch.autograd.gradcheck(bayes_refine, arguments)


def test_no_rows() -> None:
    assert bayes_refine(torch.empty(0, 3), torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(("left", "right"), [((3,), (3,)), ((2, 3), (2, 1)), ((2, 3), (3,))])
def test_other_shapes_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of one shape \(B, K\), got"):
        bayes_refine(torch.zeros(left), torch.zeros(right))
