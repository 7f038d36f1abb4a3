"""What every optimizer owes, by LionK: one result on every path, bad input, resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from framework.optim import LionK
from framework.optim.blocks import BLOCK
from tests.helpers.weights import (
    assert_equal,
    network,
    parameter,
    save_and_load,
    take_steps,
)

MEMBERS = [
    ("sign", {}),
    ("lp", {"p": 1.5}),
    ("lp", {"p": 2}),
    ("threshold", {"e": 0.1}),
    ("topk", {"k": 2}),
    ("huber", {"e": 0.2}),
    ("square", {}),
    ("group", {}),
    ("nuclear", {}),
]
every = pytest.mark.parametrize(("kappa", "kappa_kwargs"), MEMBERS)
paths = pytest.mark.parametrize("foreach", [None, True, False])

LARGE = BLOCK + 12_345
"""More elements than one block, in no whole number of them."""


# ---- one result on every path --------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scope", ["tensor", "group"])
def test_foreach_changes_no_bit(kappa, kappa_kwargs, dtype, scope):
    if scope == "group" and kappa in ("group", "nuclear"):
        pytest.skip("functions of a matrix")
    results = []
    for foreach in (None, True, False):
        own = network(dtype=dtype)
        optimizer = LionK(
            own,
            lr=0.1,
            weight_decay=0.1,
            kappa=kappa,
            kappa_kwargs=kappa_kwargs,
            foreach=foreach,
            scope=scope,
        )
        take_steps(optimizer, 0, 4)
        results.append(own)
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


@pytest.mark.parametrize("kappa", ["sign", "huber", "square", "threshold"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_change_no_bit(kappa, dtype):
    kwargs = {"e": 0.1} if kappa in ("huber", "threshold") else {}
    results = []
    for foreach in (None, True, False):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(LARGE).to(dtype))
        settings = {"kappa": kappa, "kappa_kwargs": kwargs, "foreach": foreach}
        optimizer = LionK([p], lr=0.1, weight_decay=0.1, **settings)
        take_steps(optimizer, 0, 3)
        results.append([p])
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


@paths
def test_a_view_into_a_larger_storage_moves_alone(foreach):
    storage = torch.zeros(LARGE + 20)
    x = nn.Parameter(storage[10:-10])
    optimizer = LionK([x], lr=0.1, foreach=foreach)
    x.grad = torch.ones(LARGE + 7)[7:]
    optimizer.step()
    assert torch.equal(storage[10:-10], torch.full((LARGE,), -0.1))
    assert storage[:10].count_nonzero() == storage[-10:].count_nonzero() == 0


@paths
@pytest.mark.parametrize("kappa", ["sign", "square"])
def test_gradients_in_another_layout(kappa, foreach):
    own, other = (nn.Parameter(torch.ones(1100, 1000, dtype=torch.float64)) for _ in range(2))
    gradient = torch.randn(1000, 1100, dtype=torch.float64)
    for p, g in ((own, gradient.T), (other, gradient.T.contiguous())):
        optimizer = LionK([p], lr=0.1, kappa=kappa, foreach=foreach)
        p.grad = g
        optimizer.step()
    torch.testing.assert_close(own, other, rtol=1e-14, atol=1e-14)


@paths
def test_complex_parameters_are_pairs_of_real_ones(foreach):
    torch.manual_seed(0)
    z = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
    pairs = parameter(torch.view_as_real(z))
    settings = {"lr": 0.1, "weight_decay": 0.1, "foreach": foreach}
    ours, real = LionK([z], **settings), LionK([pairs], **settings)
    for _ in range(3):
        z.grad = torch.randn_like(z)
        pairs.grad = torch.view_as_real(z.grad).clone()
        ours.step()
        real.step()
    assert torch.equal(torch.view_as_real(z), pairs)
    assert ours.state[z]["exp_avg"].dtype == torch.complex64


@pytest.mark.parametrize("capturable", [False, True])
@paths
def test_learning_rate_as_a_tensor(foreach, capturable):
    plain, tensor = network(dtype=torch.float64), network(dtype=torch.float64)
    settings = {"weight_decay": 0.25, "foreach": foreach}
    ours = LionK(plain, lr=0.125, **settings)
    lr = 0.125 if capturable else torch.tensor(0.125)
    theirs = LionK(tensor, lr=lr, capturable=capturable, **settings)
    assert torch.is_tensor(theirs.param_groups[0]["lr"])
    take_steps(ours, 0, 5)
    take_steps(theirs, 0, 5)
    assert_equal(plain, tensor)


def test_capturable_groups_do_not_share_their_learning_rate():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = LionK([{"params": [a]}, {"params": [b]}], lr=1.0, capturable=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 0.5, lambda _: 0.25])
    take_steps(optimizer, 0, 1)
    assert (abs(a.item()), abs(b.item())) == (0.5, 0.25)
    assert schedule.get_last_lr() == [0.5, 0.25]


def sharded_steps() -> list[tuple[str, float]]:
    """Return the largest difference of a step on shards to one on whole tensors."""
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole, gradient = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    differences = []
    for kappa, kappa_kwargs in MEMBERS:
        if kappa == "topk":  # DTensor has no scatter
            continue
        for foreach in (None, True, False):
            one = parameter(whole)
            one.grad = gradient
            shards = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
            shards.grad = distribute_tensor(gradient, mesh, [Shard(0)])
            for p in (one, shards):
                settings = {"kappa": kappa, "kappa_kwargs": kappa_kwargs, "foreach": foreach}
                LionK([p], lr=0.1, weight_decay=0.1, **settings).step()
            difference = (shards.full_tensor() - one).detach().abs().max()
            differences.append((f"{kappa} {kappa_kwargs} {foreach}", float(difference)))
    return differences


def test_sharded_weights_take_the_same_step(two_ranks):
    for differences in two_ranks(sharded_steps):
        assert len(differences) == 24
        assert max(differences, key=lambda pair: pair[1])[1] < 1e-12, differences


# ---- what every optimizer owes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1e-3}, "lr must be at least 0, got -0.001"),
        ({"lr": torch.tensor(-0.5)}, "lr must be at least 0, got -0.5"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (-0.1, 0.9)}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\)"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"scope": "model"}, "scope must be one of tensor, group, got 'model'"),
        ({"kappa": "lion"}, "There is no kappa 'lion'"),
        ({"kappa": "lp"}, "takes exactly p"),
        ({"kappa": "nuclear", "scope": "group"}, "takes scope='tensor'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LionK(network(), **options)
    with pytest.raises(ValueError, match=message):
        LionK([{"params": network(), **options}])
    optimizer = LionK(network(1))
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": network(), **options})
    assert len(optimizer.param_groups) == 1


def test_groups_have_options_of_their_own():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = LionK([{"params": [a]}, {"params": [b], "lr": 0.5, "kappa": "square"}], lr=0.25)
    a.grad = b.grad = torch.full((2,), 2.0)
    optimizer.step()
    assert a.tolist() == [0.75, 0.75]
    assert b.tolist() == pytest.approx([0.9, 0.9])  # 1 - 0.5 * (1 - 0.9) * 2


def test_schedules_move_the_learning_rate():
    x = nn.Parameter(torch.zeros(1))
    optimizer = LionK([x], lr=1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        x.grad = torch.tensor([-1.0])
        optimizer.step()
        schedule.step()
    assert x.item() == 1.75


# ---- precision and resuming ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_have_a_float32_momentum(dtype):
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = LionK([p], lr=0.1)
    p.grad = torch.full_like(p, 1e-3)
    for _ in range(10):
        optimizer.step()
    momentum = optimizer.state[p]["exp_avg"]
    assert momentum.dtype == torch.float32
    assert momentum[0].item() == pytest.approx(float(p.grad[0]) * (1 - 0.99**10), rel=1e-5)
    assert not torch.equal(momentum.to(dtype).float(), momentum), "must need float32"

    other = nn.Parameter(torch.ones(3, dtype=dtype))
    restored = LionK([other], lr=0.1)
    restored.load_state_dict(save_and_load(optimizer.state_dict()))
    loaded = restored.state[other]["exp_avg"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, momentum)
    assert loaded.data_ptr() != momentum.data_ptr()


def test_momentum_follows_a_model_to_float64():
    single, double = network(), network(dtype=torch.float64)
    optimizer, restored = LionK(single), LionK(double)
    take_steps(optimizer, 0, 2)
    restored.load_state_dict(optimizer.state_dict())
    assert restored.state[double[0]]["exp_avg"].dtype == torch.float64
    take_steps(restored, 2, 3)
