"""M-FAC: the numbers of its example, what it shares with every optimizer, ranks and resuming."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from framework.objectives.errors import IncompatibleError
from framework.optim import MFAC
from tests.helpers.weights import (
    assert_equal,
    give_gradients,
    network,
    parameter,
    save_and_load,
    take_steps,
)

SETTINGS = {"lr": 0.01, "ngrads": 3, "damping": 1e-3}


def two_groups(parameters: list[nn.Parameter], **settings) -> MFAC:
    optimizer = MFAC(parameters[:2], momentum=0.5, **SETTINGS | settings)
    optimizer.add_param_group({"params": parameters[2:], "lr": 0.02, "weight_decay": 0.1})
    return optimizer


def distance(a: list[nn.Parameter], b: list[nn.Parameter]) -> float:
    return max(float((x - y).detach().abs().max()) for x, y in zip(a, b, strict=True))


# ---- its numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_four_steps_of_the_example(split, dtype):
    values = [torch.ones(1), torch.ones(1)] if split else [torch.ones(2)]
    weights = [parameter(v.to(dtype)) for v in values]
    optimizer = MFAC(weights, lr=0.1, ngrads=3, damping=0.1)
    expected = [(0.997038, 0.970385), (0.981967, 0.956940), (0.972711, 0.947844)]
    for step in [*expected, (0.972033, 0.937606)]:

        def closure():
            optimizer.zero_grad()
            x = torch.cat(list(weights))
            loss = (x.square() * torch.tensor([0.5, 5.0], dtype=dtype)).sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
        assert torch.cat(list(weights)).tolist() == pytest.approx(step, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ngrads": 4}, (0.472441, 0.629921, 0)),
        ({"ngrads": 1}, (0.119522, 0.159363, 0)),
        ({"ngrads": 4, "warmup": "filled"}, (0.119522, 0.159363, 0)),
        ({"ngrads": 4, "maximize": True}, (-0.472441, -0.629921, 0)),
        ({"ngrads": 4, "momentum": 0.75}, (0.118110, 0.157480, 0)),
    ],
)
def test_first_step(settings, expected):
    weight = parameter(torch.zeros(3))
    optimizer = MFAC([weight], lr=1.0, damping=0.1, **settings)
    weight.grad = torch.tensor([3.0, 4.0, 0.0])
    optimizer.step()
    assert (-weight).tolist() == pytest.approx(expected, abs=1e-6)
    assert weight.grad.tolist() == [3.0, 4.0, 0.0]


def test_weight_decay_enters_the_window_or_stays_out_of_it():
    for decoupled in (False, True):
        weight = parameter(torch.tensor([2.0, -1.0]))
        other = parameter(weight)
        optimizer = MFAC([weight], weight_decay=0.5, decoupled=decoupled, **SETTINGS)
        plain = MFAC([other], **SETTINGS)
        for step in range(4):
            give_gradients([weight], step)
            other.grad = weight.grad.clone()
            if decoupled:
                other.data.mul_(1 - 0.01 * 0.5)
            else:
                other.grad += 0.5 * other.detach()
            optimizer.step()
            plain.step()
        assert torch.allclose(weight, other, rtol=0, atol=1e-6)


# ---- what every optimizer owes -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    own, other = network(), network()
    optimizer, plain = two_groups(own), two_groups(other)
    for step in range(5):
        if step == 2:
            give_gradients(own, 99)
            own[3].grad[1, 1, 1, 1] = bad
            optimizer.step()
            assert_equal(own, other)
        for o, p in ((optimizer, own), (plain, other)):
            give_gradients(p, step)
            o.step()
    assert_equal(own, other)


def test_a_parameter_without_gradient_stays_and_counts_as_zeros():
    own, other = network(), network()
    optimizer, plain = two_groups(own), two_groups(other)
    for step in range(4):
        give_gradients(own, step)
        give_gradients(other, step)
        if step == 2:
            before = own[1].detach().clone()
            own[1].grad, other[1].grad = None, torch.zeros(7)
        optimizer.step()
        plain.step()
        if step == 2:
            assert torch.equal(own[1], before)
    assert distance([own[0], *own[2:]], [other[0], *other[2:]]) < 1e-7


def test_a_group_that_comes_later_counts_as_zeros_before():
    own, other = network(), network()
    optimizer = MFAC(own[:2], **SETTINGS)
    both = MFAC(other, **SETTINGS)
    take_steps(optimizer, 0, 2)
    for step in range(2):
        give_gradients(other[:2], step)
        both.step()
    optimizer.add_param_group({"params": own[2:]})
    for o, p in ((optimizer, own), (both, other)):
        give_gradients(p, 7)
        o.step()
    assert distance(own, other) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("storage_dtype", [None, "bfloat16"])
def test_resuming_changes_no_bit(dtype, storage_dtype):
    whole, halves = network(dtype=dtype), network(dtype=dtype)
    take_steps(two_groups(whole, storage_dtype=storage_dtype), 0, 8)
    first = two_groups(halves, storage_dtype=storage_dtype)
    take_steps(first, 0, 4)
    state = save_and_load(first.state_dict())
    assert state["state"]["window"]["rows"].dtype == (
        torch.bfloat16 if storage_dtype else max(dtype, torch.float32, key=lambda t: t.itemsize)
    )
    second = two_groups(halves, lr=1.0)
    second.load_state_dict(state)
    take_steps(second, 4, 8)
    assert_equal(whole, halves)
    # what was loaded is a copy
    assert state["state"]["window"]["pushed"] == 4
    assert torch.equal(
        state["state"]["window"]["rows"], first.state_dict()["state"]["window"]["rows"]
    )


def test_a_window_that_is_not_kept_refills():
    parameters = network()
    optimizer = two_groups(parameters, keep_window=False)
    take_steps(optimizer, 0, 4)
    state = save_and_load(optimizer.state_dict())
    assert "window" not in state["state"]
    again, fresh = two_groups(parameters), network()
    again.load_state_dict(state)
    for p, q in zip(fresh, parameters, strict=True):
        p.data.copy_(q.detach())
    plain = MFAC(fresh[:2], **SETTINGS)
    give_gradients(parameters, 9)
    give_gradients(fresh, 9)
    plain.add_param_group({"params": fresh[2:], "lr": 0.02, "weight_decay": 0.1})
    again.param_groups[0]["momentum"] = again.param_groups[1]["momentum"] = 0
    again.step()
    plain.step()
    assert_equal(parameters, fresh)


def test_complex_parameters_are_pairs_of_real_ones():
    values = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    weight, pairs = parameter(torch.view_as_complex(values)), parameter(values)
    optimizers = MFAC([weight], **SETTINGS), MFAC([pairs], **SETTINGS)
    for step in range(3):
        give_gradients([pairs], step)
        weight.grad = torch.view_as_complex(pairs.grad)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(torch.view_as_real(weight), pairs)


def test_two_dtypes_and_an_empty_tensor():
    weights = [
        parameter(torch.ones(3).bfloat16()),
        parameter(torch.ones(2)),
        parameter(torch.ones(0)),
    ]
    optimizer = MFAC(weights, **SETTINGS)
    take_steps(optimizer, 0, 3)
    assert all(torch.isfinite(w).all() for w in weights)
    assert (weights[0] != 1).any()
    MFAC([parameter(torch.ones(0))]).step()


# ---- several ranks -------------------------------------------------------------------------------


def train(steps: range, state: dict | None, values: list | None) -> tuple[list, dict]:
    parameters = network()
    for p, value in zip(parameters, values or [], strict=False):
        p.data.copy_(value)
    optimizer = two_groups(parameters)
    if state is not None:
        optimizer.load_state_dict(state)
    take_steps(optimizer, steps.start, steps.stop)
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    columns = optimizer.state["window"]["rows"].shape[1]
    assert columns in ((71,) if ranks == 1 else (35, 36))
    return [p.detach() for p in parameters], optimizer.state_dict()


def test_two_ranks_equal_one_and_go_on_from_one_another(two_ranks):
    once, _ = train(range(8), None, None)
    half, state = train(range(4), None, None)
    halves = two_ranks(train, range(4), None, None)
    assert halves[1][1]["state"]["window"]["rows"] is None
    assert distance(halves[0][0], halves[1][0]) == 0
    assert distance(halves[0][0], half) < 1e-6
    # from one to two, from two to one, and from two to two, which is the same to the last bit
    whole = two_ranks(train, range(8), None, None)[0][0]
    for result in (
        two_ranks(train, range(4, 8), state, half)[0][0],
        train(range(4, 8), halves[0][1], halves[0][0])[0],
        whole,
    ):
        assert distance(result, once) < 1e-6
    resumed = two_ranks(train, range(4, 8), halves[0][1], halves[0][0])
    assert distance(resumed[0][0], whole) == 0
    with pytest.raises(ValueError, match="load the one that rank 0 returned"):
        train(range(4, 8), halves[1][1], half)


def refuse_on_ranks() -> str:
    parameters = network()
    optimizer = MFAC(parameters[:2], **SETTINGS)
    take_steps(optimizer, 0, 1)
    with pytest.raises(RuntimeError) as group:
        optimizer.add_param_group({"params": parameters[2:]})
    own = MFAC(parameters[:2], sharded=False, **SETTINGS)
    take_steps(own, 0, 1)
    assert own.state["window"]["rows"].shape == (3, 22)
    mesh = init_device_mesh("cpu", (2,))
    split = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    with pytest.raises(IncompatibleError, match="use the strategy ddp"):
        MFAC([split])
    return str(group.value)


def test_refused_on_several_ranks(two_ranks):
    assert "add the group before a step" in two_ranks(refuse_on_ranks)[0]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"ngrads": 0}, "ngrads must be at least 1"),
        ({"damping": 0.0}, "damping must be"),
        ({"momentum": 1.0}, "momentum must lie in"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"storage_dtype": "int8"}, "storage_dtype must be one of"),
        ({"warmup": "none"}, "warmup must be one of"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        MFAC(network(), **settings)


def test_groups_share_the_window():
    own = network()
    with pytest.raises(ValueError, match="ngrads is one for all groups, got 3 and 4"):
        MFAC([{"params": own[:1], "ngrads": 3}, {"params": own[1:], "ngrads": 4}])
    optimizer = MFAC([{"params": own[:1], "ngrads": 3}, {"params": own[1:]}])
    assert [group["ngrads"] for group in optimizer.param_groups] == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(3, 5)}, "of these parameters are"),
        ({"gram": torch.zeros(2, 2)}, "of these parameters are"),
        ({"pushed": -1}, "pushed must be at least 0"),
        (None, "must be a dict"),
    ],
)
def test_a_window_of_something_else_is_refused(change, message):
    optimizer = MFAC(network(), **SETTINGS)
    take_steps(optimizer, 0, 1)
    state = optimizer.state_dict()
    window = state["state"]["window"] | change if change else [1]
    state["state"]["window"] = window
    with pytest.raises(ValueError, match=message):
        MFAC(network(), **SETTINGS).load_state_dict(state)
