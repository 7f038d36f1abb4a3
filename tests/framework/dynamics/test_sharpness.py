"""The largest eigenvalues of Hessians, against quadratics, dense Hessians and two ranks."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import rank
from framework.dynamics import hessian_top_eigenvalue, hessian_top_eigenvalues
from tests.helpers.ranks import TwoRanks


def _quadratic(diagonal: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.ones_like(diagonal, requires_grad=True)
    return 0.5 * (diagonal * w**2).sum(), w


def _logistic(rows: int = 60, entries: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, entries, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (rows,), generator=generator).double()
    w = torch.randn(entries, generator=generator, dtype=torch.float64) / 5
    return x, y, w.requires_grad_()


def _loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(x @ w, y)


@pytest.mark.parametrize("entries", [6, 200])
def test_the_eigenvalues_of_a_diagonal_quadratic_are_its_entries(entries: int) -> None:
    diagonal = torch.linspace(-30, 10, entries, dtype=torch.float64)
    loss, w = _quadratic(diagonal)
    top = hessian_top_eigenvalues(loss, [w], k=2, tolerance=1e-8, iterations=300)
    torch.testing.assert_close(top, diagonal.flip(0)[:2], rtol=1e-6, atol=0)
    far = hessian_top_eigenvalues(loss, [w], 2, 300, 1e-8, which="magnitude")
    torch.testing.assert_close(far, diagonal[:2], rtol=1e-6, atol=0)


def test_logistic_regression_has_the_top_eigenvalue_of_its_dense_hessian() -> None:
    x, y, w = _logistic()
    p = torch.sigmoid(x @ w.detach())
    dense = x.T @ (x * (p * (1 - p))[:, None]) / len(x)
    expected = torch.linalg.eigvalsh(dense).flip(0)[:3]
    found = hessian_top_eigenvalues(_loss(x, y, w), [w], k=3, tolerance=1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_parts_of_a_loss_and_of_the_parameters_are_those_of_the_whole() -> None:
    x, y, w = _logistic()
    whole = hessian_top_eigenvalue(_loss(x, y, w), [w], tolerance=1e-10)
    a, b = (v.detach().requires_grad_() for v in w.split(10)[:2])
    c = w.detach()[20:].requires_grad_()

    def parts() -> Any:
        for rows in (slice(0, 25), slice(25, 60)):
            share = (rows.stop - rows.start) / 60
            yield share * _loss(x[rows], y[rows], torch.cat([a, b, c]))

    assert hessian_top_eigenvalue(parts, [a, b, c], tolerance=1e-10) == pytest.approx(
        whole, rel=1e-9
    )


def test_single_precision_is_as_exact_as_the_tolerance() -> None:
    x, y, w = _logistic()
    whole = hessian_top_eigenvalue(_loss(x, y, w), [w], tolerance=1e-10)
    single = w.detach().float().requires_grad_()
    found = hessian_top_eigenvalue(_loss(x.float(), y.float(), single), [single], tolerance=1e-4)
    assert found == pytest.approx(whole, rel=1e-4)


def test_one_entry_and_a_hessian_of_zeros() -> None:
    loss, w = _quadratic(torch.tensor([-4.0]))
    assert hessian_top_eigenvalue(loss, [w]) == -4.0
    for entries in (3, 100):
        w = torch.ones(entries, requires_grad=True)
        assert hessian_top_eigenvalue(3 * w.sum(), [w]) == 0.0
        assert hessian_top_eigenvalue((0 * w**2).sum(), [w]) == 0.0
        assert hessian_top_eigenvalue(torch.tensor(1.0), [w]) == 0.0


@pytest.mark.parametrize("entries", [3, 100])
def test_a_hessian_that_is_not_finite_gives_nan(entries: int) -> None:
    loss, w = _quadratic(torch.full((entries,), torch.nan))
    assert math.isnan(hessian_top_eigenvalue(loss, [w]))


def test_parameters_that_do_not_take_part_change_nothing() -> None:
    loss, w = _quadratic(torch.arange(1.0, 41.0))
    idle, empty = torch.ones(5, requires_grad=True), torch.zeros(0, requires_grad=True)
    found = hessian_top_eigenvalue(loss + idle.sum(), [idle, w, empty], tolerance=1e-5)
    assert found == pytest.approx(40.0, rel=1e-4)


def test_the_gradient_and_the_global_generators_stay_as_they_are() -> None:
    loss, w = _quadratic(torch.arange(1.0, 41.0))
    state = torch.get_rng_state()
    first = hessian_top_eigenvalue(loss, [w])
    assert w.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert hessian_top_eigenvalue(loss, [w]) == first


def test_a_search_that_does_not_converge_says_so_and_gives_a_lower_bound() -> None:
    diagonal = 1 + 1e-3 * torch.linspace(0, 1, 3000, dtype=torch.float64)
    loss, w = _quadratic(diagonal)
    with pytest.warns(UserWarning, match="did not converge to a tolerance of 1e-12 in 1 iter"):
        found = hessian_top_eigenvalue(loss, [w], iterations=1, tolerance=1e-12)
    assert 1.0 < found < 1.001


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"k": 4}, "A Hessian of 3 entries has no 4 eigenvalues"),
        ({"k": 0}, "k must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"which": "smallest"}, "which must be one of"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], said: str) -> None:
    loss, w = _quadratic(torch.ones(3))
    with pytest.raises(ValueError, match=said):
        hessian_top_eigenvalues(loss, [w], **arguments)


def _on_ranks(entries: int) -> list[float]:
    x, y, w = _logistic(entries=entries)
    rows = slice(0, 25) if rank() == 0 else slice(25, 60)
    # the mean over ranks is that of all rows
    loss = 2 * (rows.stop - rows.start) / 60 * _loss(x[rows], y[rows], w)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return hessian_top_eigenvalues(loss, [w], k=2, tolerance=1e-10).tolist()


@pytest.mark.parametrize("entries", [4, 30])
def test_two_ranks_find_what_one_process_finds(two_ranks: TwoRanks, entries: int) -> None:
    x, y, w = _logistic(entries=entries)
    expected = hessian_top_eigenvalues(_loss(x, y, w), [w], k=2, tolerance=1e-10)
    first, second = two_ranks(_on_ranks, entries)
    assert first == second
    assert first == pytest.approx(expected.tolist(), rel=1e-9)


def _concave_on_ranks(entries: int, value: float) -> list[float]:
    w = torch.ones(entries, requires_grad=True)
    # each rank's loss has other eigenvalues, whose means count
    diagonal = value * torch.linspace(1, 3, entries) * (1 + rank())
    return hessian_top_eigenvalues(0.5 * (diagonal * w**2).sum(), [w], k=2).tolist()


@pytest.mark.parametrize("entries", [4, 30])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_ranks_agree_on_eigenvalues_below_zero_and_nan(
    two_ranks: TwoRanks, entries: int, value: float
) -> None:
    first, second = two_ranks(_concave_on_ranks, entries, value)
    expected = [1.5 * value, 1.5 * value * (1 + 2 / (entries - 1))]
    assert str(first) == str(second)
    assert first == pytest.approx(expected, rel=1e-3, nan_ok=True)


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(3, 5, 4)
    parameters = [*attention.parameters()]
    found = hessian_top_eigenvalue(
        lambda: [attention(x, x, x, need_weights=False)[0].square().mean()], parameters
    )
    # the other way to the same output
    loss = attention(x, x, x)[0].square().mean()
    assert found == pytest.approx(hessian_top_eigenvalue(loss, parameters), rel=1e-2)
    assert found > 0
