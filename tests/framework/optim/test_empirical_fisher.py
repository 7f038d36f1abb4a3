"""The inverse empirical Fisher: the numbers of its paper, float64's digits, limits, blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.optim import EmpiricalFisherInverse

G = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
INVERSE = torch.tensor(
    [
        [7.043011, -2.688172, -3.225806],
        [-2.688172, 3.010753, 1.612903],
        [-3.225806, 1.612903, 1.935484],
    ],
    dtype=torch.float64,
)
forms = pytest.mark.parametrize("form", ["gram", "dense"])


def filled(gradients: Tensor, damping: float, **options) -> EmpiricalFisherInverse:
    m, d = gradients.shape
    options = {"storage_dtype": gradients.dtype, **options}
    fisher = EmpiricalFisherInverse(m, d, damping, **options)
    assert all(fisher.push(g) for g in gradients)
    return fisher


def recursion(gradients: Tensor, damping: float) -> list[tuple[Tensor, Tensor]]:
    """The paper's static algorithm: v_i and q_i, in the dtype of the gradients."""
    found: list[tuple[Tensor, Tensor]] = []
    for g in gradients:
        v = recursive_ihvp(found, damping, g)
        found.append((v, len(gradients) + g @ v))
    return found


def recursive_ihvp(found: list[tuple[Tensor, Tensor]], damping: float, x: Tensor) -> Tensor:
    result = x / damping
    for v, q in found:
        result = result - (v @ x / q) * v
    return result


def dense(gradients: Tensor, damping: float, count: int | None = None) -> Tensor:
    gradients = gradients.double()
    d = gradients.shape[1]
    fisher = gradients.T @ gradients / (count or len(gradients))
    return torch.linalg.inv(damping * torch.eye(d, dtype=torch.float64) + fisher)


def exact(gradients: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """F^-1 by singular vectors in float64: the eigenvectors in rows, and their eigenvalues."""
    _, s, vectors = torch.linalg.svd(gradients.double(), full_matrices=True)
    values = torch.full((gradients.shape[1],), damping, dtype=torch.float64)
    values[: len(s)] += s**2 / len(gradients)
    return vectors, 1 / values


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


def close(a: Tensor, b: object, tolerance: float = 1e-6) -> bool:
    return torch.allclose(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tolerance)


# ---- the numbers of the paper's example ----------------------------------------------------------


@forms
def test_inverse_of_two_gradients(form):
    fisher = filled(G, 0.1, form=form)
    assert close(fisher.ihvp(torch.eye(3)), INVERSE)
    assert close(fisher.diag(), INVERSE.diagonal())
    entries = torch.stack([fisher.entry(a, b) for a in range(3) for b in range(3)])
    assert close(entries, INVERSE.flatten())
    assert close(fisher.ihvp(torch.tensor([1.0, 2.0, 3.0])), [-8.010753, 8.172043, 5.806452])
    for i in range(2):
        assert close(fisher.ihvp_row(i), INVERSE @ G[i], 1e-5)
    assert torch.equal(fisher.ihvp_row(), fisher.ihvp_row(1))


def test_recursion_of_the_paper_gives_its_numbers():
    (v1, q1), (v2, q2) = recursion(G, 0.1)
    assert close(v1, [10, 0, 20])
    assert close(q1, 52)
    assert close(v2, [3.846154, 10, -2.307692])
    assert close(q2, 14.307692)
    # the recursion's D is the upper part of an LU factorization: U = m I + triu(D)
    upper = torch.tensor([[v1 @ G[0], v1 @ G[1]], [0, v2 @ G[1]]])
    assert close(upper, [[50, -20], [0, 12.307692]])
    full = 2 * torch.eye(2) + G @ G.T / 0.1
    assert close(full[1] - full[1, 0] / full[0, 0] * full[0], [0, 2 + 12.307692])
    assert close(
        torch.linalg.solve(0.2 * torch.eye(2) + G @ G.T, G @ G.new_tensor([1, 2, 3])),
        [1.801075, 1.182796],
    )


@forms
@pytest.mark.parametrize(
    ("m", "denominator", "expected"),
    [
        (4, "official", (0.472441, 0.629921, 0)),
        (1, "official", (0.119522, 0.159363, 0)),
        (4, "filled", (0.119522, 0.159363, 0)),
    ],
)
def test_cold_start(m, denominator, expected, form):
    fisher = EmpiricalFisherInverse(m, 3, 0.1, denominator=denominator, form=form)
    gradient = torch.tensor([3.0, 4.0, 0.0])
    assert close(fisher.ihvp(gradient), gradient / 0.1, 1e-4)  # nothing is known yet
    assert fisher.push(gradient)
    assert close(fisher.ihvp_row(), expected)
    assert close(fisher.ihvp(gradient), expected)


# ---- as accurate as float64 ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [32, 64])
@forms
def test_float32_gradients_lose_no_digits_at_small_damping(m, form):
    damping = 1e-5
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(m, 500, generator=generator) + 0.5 * torch.randn(
        500, generator=generator
    )
    general = torch.randn(500, generator=generator)
    inside = gradients.T @ torch.randn(m, generator=generator)
    fisher = filled(gradients, damping, form=form)
    vectors, values = exact(gradients, damping)
    for x in (general, inside, inside + 1e-3 * general, gradients[3]):
        expected = vectors.T @ (values * (vectors @ x.double()))
        assert distance(fisher.ihvp(x), expected) < 1e-6
    for i in (0, 3, m - 1):
        expected = vectors.T @ (values * (vectors @ gradients[i].double()))
        assert distance(fisher.ihvp_row(i), expected) < 1e-6
    expected = (vectors.square() * values[:, None]).sum(0)
    assert ((fisher.diag() - expected).abs() / expected).max() < 1e-6
    assert abs(float(fisher.entry(7, 7) / expected[7]) - 1) < 1e-6


def test_recursion_in_float32_loses_them():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(32, 500, generator=generator)
    found = recursion(gradients, 1e-5)
    vectors, values = exact(gradients, 1e-5)
    expected = vectors.T @ (values * (vectors @ gradients[3].double()))
    assert distance(recursive_ihvp(found, 1e-5, gradients[3]), expected) > 1e-2
    assert distance(filled(gradients, 1e-5).ihvp_row(3), expected) < 1e-6


@forms
def test_nearly_equal_gradients(form):
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(300, generator=generator) + 1e-4 * torch.randn(
        16, 300, generator=generator
    )
    gradients[5] = gradients[4]
    fisher = filled(gradients, 1e-5, form=form)
    vectors, values = exact(gradients, 1e-5)
    for i in (4, 15):
        expected = vectors.T @ (values * (vectors @ gradients[i].double()))
        assert distance(fisher.ihvp_row(i), expected) < 1e-6
        assert distance(fisher.ihvp(gradients[i]), expected) < 1e-6


@pytest.mark.parametrize(("damping", "tolerance"), [(0.1, 1e-12), (1e-5, 1e-6)])
def test_recursion_direct_form_and_dense_inverse_agree(damping, tolerance):
    generator = torch.Generator().manual_seed(2)
    gradients = torch.randn(32, 1000, generator=generator, dtype=torch.float64)
    x = torch.randn(1000, generator=generator, dtype=torch.float64)
    fisher, inverse = filled(gradients, damping), dense(gradients, damping)
    found = recursion(gradients, damping)
    for vector in (x, gradients[5]):
        assert distance(fisher.ihvp(vector), inverse @ vector) < tolerance
    assert distance(fisher.ihvp_row(5), inverse @ gradients[5]) < tolerance
    assert distance(recursive_ihvp(found, damping, x), inverse @ x) < tolerance
    assert distance(fisher.diag(), inverse.diagonal()) < tolerance


# ---- limits and invariances ----------------------------------------------------------------------


@forms
def test_limits_of_the_damping(form):
    x = torch.tensor([1.0, 2.0, 3.0])
    assert close(1e8 * filled(G, 1e8, form=form).ihvp(x), x, 1e-6)
    assert close(1e-9 * filled(G, 1e-9, form=form).ihvp(x), [-1, 0.5, 0.5], 1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**31))
def test_order_of_gradients_and_scale_of_the_vector(m, d, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(m, d, generator=generator, dtype=torch.float64)
    x = torch.randn(2, d, generator=generator, dtype=torch.float64)
    shuffled = gradients[torch.randperm(m, generator=generator)]
    for form in ("gram", "dense"):
        fisher = filled(gradients, 0.01, form=form)
        result = fisher.ihvp(x)
        assert close(filled(shuffled, 0.01, form=form).ihvp(x), result, 1e-8)
        assert close(fisher.ihvp(-3 * x), -3 * result, 1e-7)
        assert close(result, x @ dense(gradients, 0.01), 1e-7)
        assert (fisher.diag() <= 1 / 0.01 + 1e-9).all()


@forms
def test_window_slides(form):
    gradients = torch.randn(7, 20, generator=torch.Generator().manual_seed(3))
    fisher = EmpiricalFisherInverse(3, 20, 0.1, form=form)
    for g in gradients:
        fisher.push(g)
    inverse = dense(gradients[-3:], 0.1)
    assert close(fisher.ihvp(torch.eye(20)), inverse, 1e-9)
    assert close(fisher.ihvp_row(), inverse @ gradients[-1].double(), 1e-9)
    assert close(fisher.ihvp_row(2), inverse @ gradients[5].double(), 1e-9)


def test_another_damping_over_the_same_window():
    fisher = EmpiricalFisherInverse(3, 20, 0.1, form="gram")
    other = EmpiricalFisherInverse.over(fisher.window, 0.5)
    gradients = torch.randn(3, 20, generator=torch.Generator().manual_seed(4))
    for g in gradients:
        fisher.push(g)
    x = torch.ones(20)
    assert close(other.ihvp(x), dense(gradients, 0.5) @ x.double(), 1e-9)
    assert close(fisher.ihvp(x), dense(gradients, 0.1) @ x.double(), 1e-9)


@forms
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_left_out(form, bad):
    fisher = filled(G, 0.1, form=form)
    assert not fisher.push(torch.tensor([1.0, bad, 0.0]))
    assert close(fisher.ihvp(torch.eye(3)), INVERSE)
    assert fisher.window.pushed == 2


# ---- blocks --------------------------------------------------------------------------------------


@forms
@pytest.mark.parametrize("blocks", [1, 4, 10, 64])
def test_blocks_are_inverted_by_themselves(form, blocks, monkeypatch):
    monkeypatch.setattr("framework.optim.window._PIECE", {"cpu": 40})  # several pieces
    gradients = torch.randn(5, 10, generator=torch.Generator().manual_seed(5))
    fisher = filled(gradients, 0.1, form=form, blocks=blocks)
    expected = torch.block_diag(*(dense(part, 0.1) for part in gradients.split(blocks, dim=1)))
    assert close(fisher.ihvp(torch.eye(10)), expected, 1e-9)
    assert close(fisher.diag(), expected.diagonal(), 1e-9)
    assert close(fisher.ihvp_row(2), expected @ gradients[2].double(), 1e-9)
    entries = torch.stack([fisher.entry(3, b) for b in range(10)])
    assert close(entries, expected[3], 1e-9)


def test_half_precision_storage_solves_for_what_it_stores():
    gradients = torch.randn(4, 40, generator=torch.Generator().manual_seed(6))
    fisher = filled(gradients, 1e-3, storage_dtype=torch.bfloat16)
    assert fisher.window.rows.dtype == torch.bfloat16
    stored = gradients.bfloat16().double()
    assert distance(fisher.ihvp_row(1), dense(stored, 1e-3) @ stored[1]) < 1e-9


# ---- several ranks -------------------------------------------------------------------------------


def solve_own_columns(gradients: Tensor, x: Tensor) -> list[Tensor]:
    own = slice(0, 7) if torch.distributed.get_rank() == 0 else slice(7, None)
    fisher = EmpiricalFisherInverse(len(gradients), len(x[own]), 1e-3, sharded=True)
    for g in gradients:
        assert fisher.push(g[own])
    bad = gradients[0].clone()
    bad[0] = torch.nan
    assert not fisher.push(bad[own])  # both ranks, though one has the NaN
    return [fisher.ihvp(x[own]), fisher.ihvp_row(1), fisher.diag()]


def test_two_ranks_hold_columns(two_ranks):
    gradients = torch.randn(4, 20, generator=torch.Generator().manual_seed(7))
    x = torch.linspace(-1, 1, 20)
    inverse = dense(gradients, 1e-3)
    expected = [inverse @ x.double(), inverse @ gradients[1].double(), inverse.diagonal()]
    for parts, whole in zip(
        zip(*two_ranks(solve_own_columns, gradients, x), strict=True), expected, strict=True
    ):
        assert distance(torch.cat(parts), whole) < 1e-9


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damping": 0.0}, "damping must be"),
        ({"m": 0}, "m must be at least 1"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"denominator": "all"}, "denominator must be one of"),
        ({"sharded": True, "blocks": 2}, "one block"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EmpiricalFisherInverse(**{"m": 2, "d": 3, "damping": 0.1, **arguments})


def test_vectors_of_another_size():
    fisher = filled(G, 0.1)
    with pytest.raises(ValueError, match="has 3 entries, got shape"):
        fisher.ihvp(torch.ones(4))
    with pytest.raises(ValueError, match="numbered from 0 to 2"):
        fisher.entry(0, 3)


def test_products_that_cannot_be_factored():
    fisher = filled(torch.full((2, 3), 1.0, dtype=torch.float64), 1e-300, form="gram")
    assert torch.isfinite(fisher.ihvp_row(0)).all()  # equal gradients: rounding adds damping
    fisher.window.gram.neg_()
    with pytest.raises(RuntimeError, match="raise the damping"):
        fisher.ihvp_row(0)
