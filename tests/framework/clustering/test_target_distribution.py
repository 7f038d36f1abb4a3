"""The targets of deep clustering: the spec's table, what they minimize, and their symmetries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.clustering.target_distribution import TargetKind, dec_target_distribution

KINDS: tuple[TargetKind, ...] = ("sqrt", "square", "exact")
P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=torch.float64
)
TABLE: dict[TargetKind, list[list[float]]] = {
    "sqrt": [
        [0.665305, 0.229254, 0.105441],
        [0.559308, 0.337276, 0.103416],
        [0.176081, 0.530903, 0.293016],
        [0.090243, 0.108837, 0.800921],
    ],
    "square": [
        [0.874236, 0.103805, 0.021959],
        [0.715397, 0.260145, 0.024458],
        [0.077760, 0.706906, 0.215334],
        [0.012312, 0.017908, 0.969780],
    ],
    "exact": [
        [0.661895, 0.231200, 0.106905],
        [0.555645, 0.339653, 0.104701],
        [0.173844, 0.531335, 0.294821],
        [0.088752, 0.108505, 0.802743],
    ],
}


def objective(q: Tensor, p: Tensor) -> Tensor:
    """KL(Q||P), the mean over rows, plus KL(f||u)."""
    f = q.mean(0)
    divergence = (torch.xlogy(q, q) - torch.xlogy(q, p)).sum(1).mean()
    return divergence + torch.xlogy(f, f * len(f)).sum()


def assignments(rows: int, clusters: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, clusters, generator=generator, dtype=torch.float64)
    # unbalanced on top
    return (logits - torch.arange(clusters)).softmax(1)


CASES = {
    "spec": P,
    "unbalanced": assignments(40, 6),
    "sharp": assignments(30, 4, spread=20),
    "equal rows": torch.tensor([[0.9, 0.09, 0.01]], dtype=torch.float64).expand(5, 3),
    "one row": torch.tensor([[0.999, 0.001]], dtype=torch.float64),
}


# ---- the numbers of the spec --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_the_spec(kind: TargetKind) -> None:
    expected = torch.tensor(TABLE[kind], dtype=torch.float64)
    torch.testing.assert_close(dec_target_distribution(P, kind), expected, rtol=0, atol=5.1e-7)


@pytest.mark.parametrize(
    ("kind", "value"), [("sqrt", 0.006429), ("square", 0.111681), ("exact", 0.006390)]
)
def test_the_objective_of_the_spec(kind: TargetKind, value: float) -> None:
    assert float(objective(P, P)) == pytest.approx(0.011798, abs=5e-7)
    q = dec_target_distribution(P, kind)
    assert float(objective(q, P)) == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize(("kind", "value"), [("sqrt", 0.855061), ("square", 0.606199)])
def test_the_cross_entropy_of_the_spec_and_its_gradient(kind: TargetKind, value: float) -> None:
    q = dec_target_distribution(P, kind)
    logits = P.log().requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits, q)
    assert float(loss.detach()) == pytest.approx(value, abs=5e-7)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (P - q) / 4)


# ---- what they are ------------------------------------------------------------------------------


@pytest.mark.parametrize("p", CASES.values(), ids=CASES)
def test_exact_is_stationary(p: Tensor) -> None:
    q = dec_target_distribution(p, "exact")
    expected = p / q.mean(0)
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(q, expected, rtol=1e-10, atol=1e-13)


def test_the_plain_iteration_does_not_find_it_where_the_rows_are_equal() -> None:
    p = CASES["equal rows"]
    q = p
    for _ in range(1000):
        q = p / q.mean(0)
        q = q / q.sum(1, keepdim=True)
    # it is as far away as at the start
    assert float((q - dec_target_distribution(p, "exact")).abs().max()) > 0.1
    # the minimizer of KL(q||p) + KL(q||u)
    expected = p.sqrt() / p.sqrt().sum(1, keepdim=True)
    torch.testing.assert_close(dec_target_distribution(p, "exact"), expected)


@pytest.mark.parametrize("p", CASES.values(), ids=CASES)
def test_nothing_near_or_far_has_a_lower_objective_than_exact(p: Tensor) -> None:
    q = dec_target_distribution(p, "exact")
    best = float(objective(q, p))
    generator = torch.Generator().manual_seed(1)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            noise = size * torch.randn(q.shape, generator=generator, dtype=q.dtype)
            assert float(objective((q.log() + noise).softmax(1), p)) > best
    for kind in ("sqrt", "square"):
        # of a single row sqrt is exact
        assert float(objective(dec_target_distribution(p, kind), p)) > best - 1e-15


def test_exact_is_what_a_generic_optimizer_finds() -> None:
    p = assignments(7, 4, seed=3)
    logits = p.log().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn=None
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(logits.softmax(1), p)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = logits.detach().softmax(1)
    torch.testing.assert_close(dec_target_distribution(p, "exact"), found, rtol=0, atol=1e-7)


def test_of_balanced_assignments_sqrt_and_exact_change_nothing_and_square_doubles_logits() -> None:
    row = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    p = torch.stack([row.roll(k) for k in range(3)])
    for kind in ("sqrt", "exact"):
        torch.testing.assert_close(dec_target_distribution(p, kind), p, rtol=1e-14, atol=0)
    twice = (2 * p.log()).softmax(1)
    torch.testing.assert_close(dec_target_distribution(p, "square"), twice, rtol=1e-14, atol=0)


def test_balancing_makes_the_frequencies_more_equal_and_square_sharpens() -> None:
    p = assignments(200, 5)
    for kind in ("sqrt", "exact"):
        q = dec_target_distribution(p, kind)
        assert float(q.mean(0).min()) > 1.5 * float(p.mean(0).min())
        assert float(q.mean(0).max()) < float(p.mean(0).max())
    q = dec_target_distribution(p, "square")
    assert float(q.amax(1).mean()) > 1.05 * float(p.amax(1).mean())


# ---- symmetries and limits ----------------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99), st.data())
def test_permutations_of_rows_and_clusters(
    kind: TargetKind, rows: int, clusters: int, seed: int, data: st.DataObject
) -> None:
    p = assignments(rows, clusters, seed)
    q = dec_target_distribution(p, kind)
    torch.testing.assert_close(q.sum(1), torch.ones(rows, dtype=q.dtype))
    assert (q >= 0).all()
    row = data.draw(st.permutations(range(rows)))
    column = data.draw(st.permutations(range(clusters)))
    moved = dec_target_distribution(p[row][:, column], kind)
    torch.testing.assert_close(moved, q[row][:, column], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_one_hot_rows_stay_and_an_empty_cluster_gives_no_nan(kind: TargetKind) -> None:
    # nobody is in the last
    p = torch.eye(4)[[0, 0, 1, 2, 0]]
    assert torch.equal(dec_target_distribution(p, kind), p)
    mixed = torch.tensor([[0.3, 0.7, 0.0], [1.0, 0.0, 0.0]])
    q = dec_target_distribution(mixed, kind)
    assert q.isfinite().all()
    assert torch.equal(q[1], mixed[1])
    assert q[:, 2].tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_nearly_empty_cluster_is_boosted_and_stays_finite(kind: TargetKind) -> None:
    p = torch.tensor([[1 - 1e-30, 1e-30], [1 - 1e-6, 1e-6]])
    q = dec_target_distribution(p, kind)
    assert q.isfinite().all()
    assert q[1, 1] > 1.9 * p[1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_stay_and_do_not_count(kind: TargetKind) -> None:
    p = torch.cat([P[:2], torch.zeros(3, 3), P[2:]])
    q = dec_target_distribution(p, kind)
    assert (q[2:5] == 0).all()
    torch.testing.assert_close(q[[0, 1, 5, 6]], dec_target_distribution(P, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind: TargetKind) -> None:
    assert dec_target_distribution(torch.empty(0, 3), kind).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_computed_in_float32(kind: TargetKind, dtype: torch.dtype) -> None:
    p = assignments(1000, 3).to(dtype)
    q = dec_target_distribution(p, kind)
    assert q.dtype == torch.float32
    assert torch.equal(q, dec_target_distribution(p.float(), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_close_to_float64(kind: TargetKind) -> None:
    p = assignments(3000, 5)
    q = dec_target_distribution(p.float(), kind)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.double(), dec_target_distribution(p, kind), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["sqrt", "square"])
def test_a_part_of_the_samples_with_the_frequencies_of_all(kind: TargetKind) -> None:
    p = assignments(20, 3)
    part = dec_target_distribution(p[4:9], kind, freq=p.sum(0))
    torch.testing.assert_close(part, dec_target_distribution(p, kind)[4:9])
    alone = dec_target_distribution(p[4:9], kind)
    assert float((alone - part).abs().max()) > 1e-3
    # only the ratios of the frequencies matter, and none may be 0
    torch.testing.assert_close(dec_target_distribution(p[4:9], kind, freq=7 * p.sum(0)), part)
    assert dec_target_distribution(p, kind, freq=torch.zeros(3)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_not_changed(kind: TargetKind) -> None:
    p = P.clone()
    dec_target_distribution(p, kind)
    assert torch.equal(p, P)


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "arguments", "message"),
    [
        (P[0], {}, r"p must be \(N, K\), got \(3,\)"),
        (P[None], {}, r"p must be \(N, K\), got \(1, 4, 3\)"),
        (P, {"kind": "cube"}, "kind must be one of .*sqrt.*, got 'cube'"),
        (P, {"freq": torch.ones(4)}, r"freq must be \(3,\) .* got \(4,\) with 'sqrt'"),
        (P, {"kind": "exact", "freq": torch.ones(3)}, r"belongs to 'sqrt' and 'square'"),
    ],
)
def test_bad_arguments_are_refused(p: Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dec_target_distribution(p, **arguments)
