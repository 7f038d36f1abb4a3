"""LionK's one pass over memory equals the torch operations bit for bit."""

from __future__ import annotations

import math
import os
import shutil

import pytest
import torch
from timm.optim.lion import Lion
from torch import nn

from framework.optim import LionK
from framework.optim.lion_fused import KINDS, is_fusible
from framework.utilities.compiled_library import compile_library
from tests.helpers.weights import assert_equal, network, parameter

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)
kinds = pytest.mark.parametrize("kappa", KINDS)
ARGUMENTS = {"threshold": {"e": 0.1}, "huber": {"e": 0.2}}
LARGE = 3 * (1 << 15) + 11
"""Entries for several threads, in no whole number of vectors."""


def pair(own: list[nn.Parameter], **options) -> tuple[LionK, LionK]:
    """Return a plain optimizer of ``own`` and a fused one of a copy."""
    return LionK(own, **options), LionK([parameter(p) for p in own], fused=True, **options)


def assert_same_steps(plain: LionK, fused: LionK, steps: int = 3) -> None:
    ours, theirs = (o.param_groups[0]["params"] for o in (plain, fused))
    for _ in range(steps):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        plain.step()
        fused.step()
        # a schedule moves it
        plain.param_groups[0]["lr"] *= 0.7
        fused.param_groups[0]["lr"] *= 0.7
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(plain.state[p]["exp_avg"], fused.state[q]["exp_avg"])


def zero_momentum(p: nn.Parameter) -> torch.Tensor:
    return LionK([p]).momentum(p)


@needs_compiler
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.3},
        {"betas": (0.4, 0.5), "maximize": True},
        {"betas": (0.0, 0.2), "weight_decay": 0.1},
    ],
)
def test_one_pass_changes_no_bit(kappa, dtype, options):
    own = [*network(dtype=dtype), nn.Parameter(torch.randn(LARGE).to(dtype))]
    assert all(is_fusible(p, torch.randn_like(p), zero_momentum(p)) for p in own)
    options |= {"kappa": kappa, "kappa_kwargs": ARGUMENTS.get(kappa, {})}
    assert_same_steps(*pair(own, lr=0.013, **options))


@needs_compiler
@pytest.mark.parametrize("fused", [False, True])
def test_sign_is_timms_lion_bit_for_bit(fused):
    own = [*network(), nn.Parameter(torch.randn(LARGE))]
    theirs = [parameter(p) for p in own]
    settings = {"lr": 3e-3, "betas": (0.9, 0.98), "weight_decay": 0.3}
    ours, lion = LionK(own, fused=fused, **settings), Lion(theirs, **settings)
    for _ in range(100):
        for p, q in zip(own, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        lion.step()
    assert_equal(own, theirs)


@needs_compiler
@kinds
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_shows_as_without(kappa, wrong):
    x = nn.Parameter(torch.ones(40))
    optimizers = pair([x], kappa=kappa, kappa_kwargs=ARGUMENTS.get(kappa, {}))
    y = optimizers[1].param_groups[0]["params"][0]
    for p in (x, y):
        p.grad = torch.full((40,), 0.5)
        p.grad[7] = wrong
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(x.isnan(), y.isnan())
    torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    assert kappa == "huber" or not x[7].isfinite()


@needs_compiler
def test_a_view_into_a_larger_storage_moves_alone():
    storage = torch.zeros(120)
    x = nn.Parameter(storage[10:-10])
    x.grad = torch.ones(107)[7:]
    LionK([x], lr=0.1, fused=True).step()
    assert torch.equal(storage[10:-10], torch.full((100,), -0.1))
    assert storage[:10].count_nonzero() == storage[-10:].count_nonzero() == 0


@needs_compiler
def test_the_number_of_threads_changes_no_bit():
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.manual_seed(0)
        x = nn.Parameter(torch.randn(LARGE))
        x.grad = torch.randn(LARGE)
        try:
            torch.set_num_threads(threads)
            LionK([x], lr=0.1, kappa="square", fused=True).step()
        finally:
            torch.set_num_threads(before)
        results.append([x])
    assert_equal(*results)


def test_what_the_kernel_does_not_take_goes_the_other_way():
    half, pairs = nn.Parameter(torch.ones(3).half()), nn.Parameter(torch.ones(3) + 1j)
    turned = nn.Parameter(torch.randn(4, 3))
    half.grad, pairs.grad = torch.ones_like(half), torch.ones_like(pairs)
    turned.grad = torch.randn(3, 4).T
    own = [half, pairs, turned]
    assert not any(is_fusible(p, p.grad, zero_momentum(p)) for p in own)
    plain, fused = pair(own, lr=0.1)
    copies = fused.param_groups[0]["params"]
    for p, q in zip(own, copies, strict=True):
        q.grad = p.grad
    plain.step()
    fused.step()
    assert_equal([half, turned], [copies[0], copies[2]])
    assert torch.equal(pairs, copies[1])


@needs_compiler
def test_a_weight_that_was_cast_goes_the_other_way():
    own = [nn.Parameter(torch.randn(1000))]
    plain, fused = pair(own, lr=0.1, kappa="square")
    assert_same_steps(plain, fused, steps=1)
    for optimizer in (plain, fused):
        (p,) = optimizer.param_groups[0]["params"]
        p.data = p.data.double()
    assert_same_steps(plain, fused)


def test_a_learning_rate_that_is_a_tensor_goes_the_other_way():
    own = network(dtype=torch.float64)
    plain, fused = pair(own, lr=torch.tensor(0.1, dtype=torch.float64), kappa="square")
    fused.param_groups[0]["lr"] = plain.param_groups[0]["lr"].clone()
    assert_same_steps(plain, fused)


# ---- what does not go together -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": "lp", "kappa_kwargs": {"p": 2}}, "takes one of sign, .* as kappa, not 'lp'"),
        ({"foreach": True}, "fused=True excludes foreach=True and capturable=True"),
        ({"capturable": True}, "fused=True excludes foreach=True and capturable=True"),
    ],
)
def test_options_that_exclude_it_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LionK(network(), fused=True, **options)


def test_a_weight_elsewhere_is_refused():
    x = nn.Parameter(torch.ones(3, device="meta"))
    x.grad = torch.ones(3, device="meta")
    with pytest.raises(RuntimeError, match="works on a CPU and found a weight on meta"):
        LionK([x], fused=True).step()


def test_a_machine_without_a_compiler_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"lion_kernel\.cpp needs a C\+\+ compiler"):
        compile_library("framework.optim", "lion_kernel.cpp")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"The C\+\+ compiler 'false' cannot compile"):
        compile_library("framework.optim", "lion_kernel.cpp")
