"""LionK: the specification's numbers, the constraint, and its special cases."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from timm.optim.lion import Lion
from torch import nn

from framework.optim import LionK
from framework.optim.blocks import BLOCK
from framework.optim.kappa import make_kappa
from tests.helpers.weights import assert_equal, give_gradients, network, parameter, take_steps

X = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
M = torch.tensor([0.1, -0.2, 0.0, 0.05], dtype=torch.float64)
G = torch.tensor([0.4, -0.1, 0.3, -0.4], dtype=torch.float64)

WORKED = [
    ("sign", {}, [0.85, -1.8, 0.375, -0.1]),
    ("lp", {"p": 1.5}, [0.879757, -1.815081, 0.441256, -0.013776]),
    ("lp", {"p": 2}, [0.894018, -1.818180, 0.462081, -0.002153]),
    ("threshold", {"e": 0.1}, [0.85, -1.8, 0.475, 0]),
    ("topk", {"k": 2}, [0.85, -1.8, 0.475, 0]),
    ("huber", {"e": 0.2}, [0.885, -1.805, 0.46, -0.0025]),
    ("square", {}, [0.937, -1.881, 0.472, -0.0005]),
]
MEMBERS = [(name, arguments) for name, arguments, _ in WORKED] + [("group", {}), ("nuclear", {})]
every = pytest.mark.parametrize(("kappa", "kappa_kwargs"), MEMBERS)
paths = pytest.mark.parametrize("foreach", [None, True, False])

# ---- the specification's numbers -----------------------------------------------------------------


@paths
@pytest.mark.parametrize("scope", ["tensor", "group"])
@pytest.mark.parametrize(("kappa", "kappa_kwargs", "expected"), WORKED)
def test_worked_example(kappa, kappa_kwargs, expected, scope, foreach):
    x = parameter(X)
    optimizer = LionK(
        [x],
        lr=0.1,
        weight_decay=0.5,
        kappa=kappa,
        kappa_kwargs=kappa_kwargs,
        scope=scope,
        foreach=foreach,
    )
    optimizer.state[x]["exp_avg"] = M.clone()
    x.grad = G.clone()
    optimizer.step()
    assert x.tolist() == pytest.approx(expected, abs=5e-7)
    momentum = optimizer.state[x]["exp_avg"]
    assert momentum.tolist() == pytest.approx([0.103, -0.199, 0.003, 0.0455], abs=1e-12)


def test_weights_outside_the_set_approach_it_exponentially():
    x = nn.Parameter(torch.tensor(30.0, dtype=torch.float64))
    optimizer = LionK([x], lr=0.1, weight_decay=0.5)
    for _ in range(200):
        x.grad = torch.tensor(-1.0, dtype=torch.float64)
        before = x.item()
        optimizer.step()
        assert x.item() - 2 == pytest.approx(0.95 * (before - 2), rel=1e-12)
    assert x.item() == pytest.approx(2.000981, abs=5e-7)


Q = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.5]], dtype=torch.float64)
B = torch.tensor([1.0, 5.0, -4.0], dtype=torch.float64)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return x @ Q @ x / 2 - B @ x


def constrained_minimum() -> torch.Tensor:
    """Minimize the quadratic + 0.05 |x|^2 on |x| <= 2 by projected gradient descent."""
    x = torch.zeros(3, dtype=torch.float64)
    for _ in range(2000):
        x = (x - 0.3 * (Q @ x - B + 0.1 * x)).clamp(-2, 2)
    return x


def test_huber_finds_the_constrained_minimum():
    expected = constrained_minimum()
    assert expected[1] == 2, "the constraint must hold back an entry"
    assert (expected.abs() < 1.99).sum() >= 1, "and leave another free"
    x = nn.Parameter(torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64))
    optimizer = LionK([x], lr=1e-2, weight_decay=0.5, kappa="huber", kappa_kwargs={"e": 0.2})
    for _ in range(5000):
        x.grad = Q @ x.detach() - B
        optimizer.step()
    assert x.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("lr", [1e-2, 1e-3, 1e-4])
def test_lyapunov_function_decreases_at_every_step(lr):
    wd, (beta1, beta2) = 0.5, (0.9, 0.99)
    kappa = make_kappa("huber", {"e": 0.2})
    x = nn.Parameter(torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64))
    optimizer = LionK([x], lr=lr, weight_decay=wd, kappa="huber", kappa_kwargs={"e": 0.2})
    coupling = lr * beta1 / ((1 - beta2) + lr * wd * (1 - beta1))
    values = []
    for _ in range(500):
        state = optimizer.state[x].get("exp_avg", torch.zeros_like(x))
        y, m = wd * x.detach(), -state
        gap = kappa.conjugate(y) + kappa.value(m) - y @ m
        assert gap >= -1e-12, "Fenchel-Young"
        values.append(float(quadratic(x.detach()) + kappa.conjugate(y) / wd + coupling * gap))
        x.grad = Q @ x.detach() - B
        optimizer.step()
    assert all(math.isfinite(v) for v in values)
    assert all(b < a for a, b in pairwise(values))
    assert values[0] - values[-1] > 0.01


@every
def test_bound_on_weights_that_start_inside(kappa, kappa_kwargs):
    if kappa == "square":
        pytest.skip("square bounds nothing")
    member = make_kappa(kappa, kappa_kwargs)
    x = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = LionK([x], lr=0.1, weight_decay=3.0, kappa=kappa, kappa_kwargs=kappa_kwargs)
    largest = 0.0
    for step in range(150):
        give_gradients([x], step // 50)  # the same direction long enough to meet the bound
        optimizer.step()
        largest = max(largest, float(member.gauge(x.detach())))
    assert 0.3 < largest <= member.support(3.0) * (1 + 1e-12)


# ---- special cases -------------------------------------------------------------------------------


@paths
@pytest.mark.parametrize("maximize", [False, True])
def test_sign_is_timms_lion_bit_for_bit(foreach, maximize):
    own = [
        *network(),
        nn.Parameter(torch.randn(BLOCK + 12_345)),
        nn.Parameter(torch.randn(3, 5).T),
    ]
    theirs = [parameter(p) for p in own]
    settings = {"lr": 3e-3, "betas": (0.9, 0.98), "weight_decay": 0.3, "maximize": maximize}
    ours, lion = LionK(own, foreach=foreach, **settings), Lion(theirs, **settings)
    gradients = [[torch.randn_like(p) for p in own] for _ in range(3)]
    for step in range(30):
        for p, q, gradient in zip(own, theirs, gradients[step % 3], strict=True):
            p.grad = gradient * (1 + step)
            q.grad = p.grad.clone()
        ours.step()
        lion.step()
    assert_equal(own, theirs)
    for p, q in zip(own, theirs, strict=True):
        assert torch.equal(ours.state[p]["exp_avg"], lion.state[q]["exp_avg"])


def test_large_channels_last_kernel_is_timms_lion_bit_for_bit():
    kernel = torch.randn(BLOCK // (128 * 9) + 8, 128, 3, 3).contiguous(
        memory_format=torch.channels_last
    )
    assert kernel.numel() > BLOCK
    p, q = parameter(kernel), parameter(kernel)
    ours, lion = (kind([r], lr=1e-2, weight_decay=0.1) for kind, r in ((LionK, p), (Lion, q)))
    for layout in (torch.channels_last, torch.contiguous_format):
        for _ in range(3):
            p.grad = torch.randn_like(kernel).contiguous(memory_format=layout)
            q.grad = p.grad.clone()
            ours.step()
            lion.step()
            assert torch.equal(p, q)


@paths
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_square_with_equal_betas_is_momentum(beta, foreach):
    own = network(dtype=torch.float64)
    theirs = [parameter(p) for p in own]
    ours = LionK(own, lr=0.1, betas=(beta, beta), kappa="square", foreach=foreach)
    # torch starts SGD's buffer at g, not (1 - beta) g; from a zero buffer the two are the same
    sgd = torch.optim.SGD(theirs, lr=0.1, momentum=beta, dampening=beta)
    if beta:
        for p in theirs:
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    take_steps(ours, 0, 20)
    take_steps(sgd, 0, 20)
    for p, q in zip(own, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-13)


@every
def test_without_momentum_a_step_is_frank_wolfe(kappa, kappa_kwargs):
    """x <- (1 - h wd) x + h wd v, with v the point of the set that is best against g."""
    lr, wd = 0.1, 0.5
    own = network(dtype=torch.float64)[0]
    before = own.detach().clone()
    optimizer = LionK(
        [own],
        lr=lr,
        betas=(0.0, 0.99),
        weight_decay=wd,
        kappa=kappa,
        kappa_kwargs=kappa_kwargs,
    )
    optimizer.state[own]["exp_avg"] = torch.full_like(own, 1e3)  # must not count
    give_gradients([own], 0)
    optimizer.step()
    vertex = make_kappa(kappa, kappa_kwargs).grad(-own.grad) / wd
    assert torch.allclose(own, (1 - lr * wd) * before + lr * wd * vertex, rtol=1e-12, atol=1e-14)


def test_lp_at_zero_only_decays():
    x = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = LionK([x], lr=0.1, weight_decay=0.5, kappa="lp", kappa_kwargs={"p": 1.5})
    x.grad = torch.zeros(2)
    optimizer.step()
    assert torch.equal(x, torch.tensor([1.0, -2.0]) * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("rms_scale", [False, True])
@pytest.mark.parametrize(("kappa", "kwargs"), [("lp", {"p": 1.5}), ("topk", {"k": 4})])
def test_scope_group_is_one_concatenated_tensor(kappa, kwargs, rms_scale):
    if rms_scale and kappa != "lp":
        pytest.skip("rms_scale belongs to lp")
    pieces = network(dtype=torch.float64)
    whole = nn.Parameter(torch.cat([p.detach().flatten() for p in pieces]))
    settings = {
        "lr": 0.1,
        "weight_decay": 0.2,
        "kappa": kappa,
        "kappa_kwargs": kwargs,
        "rms_scale": rms_scale,
    }
    apart, together = LionK(pieces, scope="group", **settings), LionK([whole], **settings)
    for step in range(5):
        give_gradients(pieces, step)
        whole.grad = torch.cat([p.grad.flatten() for p in pieces])
        apart.step()
        together.step()
    joined = torch.cat([p.detach().flatten() for p in pieces])
    assert torch.allclose(joined, whole, rtol=1e-12)


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize(("kappa", "kappa_kwargs"), [m for m in MEMBERS if m[0] != "nuclear"])
def test_a_gradient_that_is_no_number_shows_in_the_weight(kappa, kappa_kwargs, wrong, foreach):
    """As with Adam; a NaN has no sign, and a weight that only stands still is not noticed."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = LionK([weight], kappa=kappa, kappa_kwargs=kappa_kwargs, foreach=foreach)
    weight.grad = torch.full_like(weight, 0.5)
    weight.grad[1, 2] = wrong
    optimizer.step()
    if math.isnan(wrong) or kappa in ("sign", "threshold", "topk"):
        assert weight[1, 2].isnan()
    if kappa in ("sign", "threshold", "huber", "square"):
        assert weight[0].isfinite().all()


def test_a_matrix_that_is_no_number_has_no_polar_factor():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.full_like(weight, math.nan)
    with pytest.raises(RuntimeError, match="non-finite"):
        LionK([weight], kappa="nuclear").step()
