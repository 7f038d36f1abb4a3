"""Each member of the family: its gradient, its conjugate, and the set that the conjugate bounds."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from framework.optim.kappa import make_kappa

MEMBERS = [
    ("sign", {}),
    ("lp", {"p": 1.5}),
    ("lp", {"p": 2.0}),
    ("lp", {"p": 7.0}),
    ("threshold", {"e": 0.4}),
    ("topk", {"k": 2}),
    ("huber", {"e": 0.3}),
    ("square", {}),
    ("group", {}),
    ("nuclear", {}),
]
every = pytest.mark.parametrize(("name", "arguments"), MEMBERS)
bounded = pytest.mark.parametrize(("name", "arguments"), [m for m in MEMBERS if m[0] != "square"])

C = torch.tensor([0.13, -0.19, 0.03, 0.005], dtype=torch.float64)
WORKED = [
    ("sign", {}, [1, -1, 1, 1]),
    ("lp", {"p": 1.5}, [0.702429, -0.849195, 0.337436, 0.137758]),
    ("lp", {"p": 2}, [0.559820, -0.818198, 0.129189, 0.021532]),
    ("threshold", {"e": 0.1}, [1, -1, 0, 0]),
    ("topk", {"k": 2}, [1, -1, 0, 0]),
    ("huber", {"e": 0.2}, [0.65, -0.95, 0.15, 0.025]),
    ("square", {}, [0.13, -0.19, 0.03, 0.005]),
]


def random(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (3, 4)), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("name", "arguments", "gradient"), WORKED)
def test_worked_example(name, arguments, gradient):
    assert make_kappa(name, arguments).grad(C).tolist() == pytest.approx(gradient, abs=5e-7)


@pytest.mark.parametrize("p", [1.01, 1.5, 2, 3, 50])
def test_gradient_of_lp_has_dual_norm_one(p):
    u = make_kappa("lp", {"p": p}).grad(random(0))
    q = p / (p - 1)
    assert float((u.abs() ** q).sum()) == pytest.approx(1, abs=1e-12)


@every
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (7,), (2, 3, 2, 2), ()])
def test_gradient_is_that_of_the_value(name, arguments, shape):
    kappa = make_kappa(name, arguments)
    c = random(1, *shape) if shape else torch.tensor(0.7, dtype=torch.float64)
    c.requires_grad_()
    (expected,) = torch.autograd.grad(kappa.value(c), c)
    given = c.detach().clone()
    assert torch.allclose(kappa.grad(given), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(given, c), "grad must leave its argument alone"
    assert kappa.grad_(given) is given
    assert torch.allclose(given, expected, rtol=1e-10, atol=1e-12)


@every
def test_gradient_ignores_the_memory_layout(name, arguments):
    kappa = make_kappa(name, arguments)
    c = random(2, 2, 3, 4, 5)
    last = c.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(kappa.grad(last), kappa.grad(c), rtol=1e-12)


@every
def test_zero_gives_zero(name, arguments):
    kappa = make_kappa(name, arguments)
    zero = torch.zeros(3, 4)
    assert torch.equal(kappa.grad(zero), zero)
    assert kappa.value(zero) == 0
    assert kappa.conjugate(zero) == 0


@every
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 10))
def test_value_is_even_and_convex(name, arguments, seed, size):
    kappa = make_kappa(name, arguments)
    a, b = size * random(seed), random(seed + 1)
    assert kappa.value(-a) == kappa.value(a)
    middle, mean = kappa.value((a + b) / 2), (kappa.value(a) + kappa.value(b)) / 2
    assert middle <= mean * (1 + 1e-12)


@every
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 10), share=st.floats(0, 1))
def test_fenchel_young(name, arguments, seed, size, share):
    kappa = make_kappa(name, arguments)
    x, y = size * random(seed), random(seed + 1)
    gauge = kappa.gauge(y)
    if gauge > 0:
        y = y * share / gauge
    conjugate = kappa.conjugate(y)
    assert torch.isfinite(conjugate)
    assert (x * y).sum() <= kappa.value(x) + conjugate + 1e-9 * size


@every
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 10))
def test_fenchel_young_is_equality_at_the_gradient(name, arguments, seed, size):
    kappa = make_kappa(name, arguments)
    x = size * random(seed)
    y = kappa.grad(x)
    both = kappa.value(x) + kappa.conjugate(y)
    assert float((x * y).sum()) == pytest.approx(float(both), rel=1e-9, abs=1e-12)


@bounded
@given(seed=st.integers(0, 10**6))
def test_conjugate_is_finite_exactly_where_the_gauge_is_at_most_one(name, arguments, seed):
    """A gradient is on the boundary of the set; outside, ``<x, y> - K(x)`` grows without bound."""
    kappa = make_kappa(name, arguments)
    # far out every entry is above a threshold, so that the gradient reaches the boundary
    x = random(seed) + 9 * random(seed).sign()
    y = kappa.grad(x)
    assert float(kappa.gauge(y)) == pytest.approx(1, abs=1e-12)
    assert torch.isfinite(kappa.conjugate(0.999 * y))
    assert torch.isfinite(kappa.conjugate(y))
    assert torch.isinf(kappa.conjugate(1.001 * y))
    growth = [float((t * x * 1.001 * y).sum() - kappa.value(t * x)) for t in (1e4, 1e5)]
    assert growth[1] > growth[0] + 1


@bounded
@given(seed=st.integers(0, 10**6), factor=st.floats(0, 100))
def test_gauge_is_homogeneous(name, arguments, seed, factor):
    kappa = make_kappa(name, arguments)
    y = random(seed)
    assert float(kappa.gauge(factor * y)) == pytest.approx(factor * float(kappa.gauge(y)))


def test_square_has_no_constraint():
    kappa = make_kappa("square")
    assert kappa.gauge(1e6 * random(0)) == 0
    assert torch.isfinite(kappa.conjugate(1e6 * random(0)))


def test_support_is_the_bound_on_the_weights():
    assert make_kappa("sign").support(0.5) == 2
    assert make_kappa("sign").support(0.0) == math.inf


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [12, 13, 1000])
def test_topk_of_everything_is_sign(k):
    topk, sign, c = make_kappa("topk", {"k": k}), make_kappa("sign"), random(3)
    assert torch.equal(topk.grad(c), sign.grad(c))
    assert topk.value(c) == pytest.approx(float(sign.value(c)))


@pytest.mark.parametrize("k", [1, 5, 11])
def test_topk_moves_the_k_largest(k):
    c = random(3)
    u = make_kappa("topk", {"k": k}).grad(c)
    assert int(u.count_nonzero()) == k
    assert c.abs()[u != 0].min() > c.abs()[u == 0].max()


def test_lp_approaches_sign():
    c = random(4)
    distance = [
        float((make_kappa("lp", {"p": 1 + e}).grad(c) - c.sign()).abs().max())
        for e in (1e-1, 1e-2, 1e-3, 1e-4)
    ]
    for coarse, fine in pairwise(distance):
        assert fine < coarse / 8
    assert distance[-1] < 1e-3


def test_threshold_and_huber_approach_sign():
    c = random(5)
    assert torch.equal(make_kappa("threshold", {"e": 0}).grad(c), c.sign())
    assert torch.equal(make_kappa("huber", {"e": 1e-9}).grad(c), c.sign())


def test_group_of_rows_of_one_is_sign():
    c = random(6, 5, 1)
    assert torch.equal(make_kappa("group").grad(c), c.sign())


def test_group_and_nuclear_of_a_vector_are_lp_two():
    c, lp = random(7, 9), make_kappa("lp", {"p": 2})
    for name in ("group", "nuclear"):
        assert torch.allclose(make_kappa(name).grad(c), lp.grad(c), rtol=1e-12)


def test_nuclear_gradient_is_the_orthogonal_polar_factor():
    u = make_kappa("nuclear").grad(random(8, 3, 5))
    assert torch.allclose(u @ u.T, torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_nuclear_leaves_the_null_space_alone():
    c = torch.outer(random(9, 4), random(10, 6))
    u = make_kappa("nuclear").grad(c)
    assert torch.allclose(u, c / torch.linalg.matrix_norm(c), atol=1e-12)


@pytest.mark.parametrize("p", [1.001, 1.5, 2, 1000])
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_lp_neither_over_nor_underflows_in_float32(p, size):
    kappa = make_kappa("lp", {"p": p})
    c = torch.tensor([1.0, -0.5, 0.25])
    assert torch.allclose(kappa.grad(c * size), kappa.grad(c), rtol=1e-5)
    assert float(kappa.value(c * size)) == pytest.approx(float(kappa.value(c)) * size, rel=1e-5)
    assert float(kappa.gauge(c * size)) == pytest.approx(float(kappa.gauge(c)) * size, rel=1e-5)


@pytest.mark.parametrize("p", [1.5, 2, 4])
def test_rms_scale_multiplies_k_by_the_root_of_the_size(p):
    plain, scaled = make_kappa("lp", {"p": p}), make_kappa("lp", {"p": p}, rms_scale=True)
    c = random(11)
    root = math.sqrt(c.numel())
    assert torch.allclose(scaled.grad(c), root * plain.grad(c), rtol=1e-12)
    assert float(scaled.value(c)) == pytest.approx(root * float(plain.value(c)))
    assert float(scaled.gauge(c)) == pytest.approx(float(plain.gauge(c)) / root)
    assert float(scaled.gauge(scaled.grad(c))) == pytest.approx(1)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "rms_scale", "message"),
    [
        ("sing", {}, False, "There is no kappa 'sing'; the nearest are sign"),
        ("lp", {}, False, "takes exactly p in kappa_kwargs"),
        ("lp", {"p": 2, "e": 1}, False, "takes exactly p in kappa_kwargs"),
        ("sign", {"p": 2}, False, "takes nothing in kappa_kwargs"),
        ("lp", {"p": 1}, False, "needs a finite p > 1, got 1"),
        ("lp", {"p": math.inf}, False, "needs a finite p > 1, got inf"),
        ("lp", {"p": math.nan}, True, "needs a finite p > 1, got nan"),
        ("threshold", {"e": -0.1}, False, "e must be at least 0, got -0.1"),
        ("threshold", {"e": math.nan}, False, "e must be finite and at least 0, got nan"),
        ("huber", {"e": 0}, False, "needs e > 0, got 0"),
        ("huber", {"e": math.nan}, False, "needs e > 0, got nan"),
        ("topk", {"k": 0}, False, "needs a whole number k >= 1, got 0"),
        ("topk", {"k": 2.5}, False, "needs a whole number k >= 1, got 2.5"),
        ("sign", {}, True, "rms_scale belongs to kappa='lp'"),
    ],
)
def test_bad_arguments_are_refused(name, arguments, rms_scale, message):
    with pytest.raises(ValueError, match=message):
        make_kappa(name, arguments, rms_scale)
