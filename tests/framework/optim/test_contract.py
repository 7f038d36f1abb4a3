"""What every optimizer must do, whichever it is: section 0 of the specification of optimizers."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.optimizers import (
    BUILD,
    UNBUILT,
    Quadratic,
    SparseQuadratic,
    exported,
    resumed,
    solve,
    weights_of,
)
from tests.helpers.weights import assert_equal, network, parameter

FURTHER = [name for name, build in BUILD.items() if build.further]
# ranks would compile a kernel for what is element-wise
ON_RANKS = [name for name in BUILD if name not in (*FURTHER, "LionK fused")]
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.combination if n in FURTHER else ()) for n in BUILD]
)
REFUSAL = "{} does not support sparse gradients."
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def two_groups(name: str, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Build with a second group, added later, that has half the learning rate."""
    own = [*network(0, dtype), *network(1, dtype)]
    optimizer = BUILD[name](own[:4])
    group: dict[str, Any] = {"params": own[4:]}
    if "lr" in BUILD[name].arguments and not BUILD[name].one_lr:
        group["lr"] = float(optimizer.param_groups[0]["lr"]) / 2
    optimizer.add_param_group(group)
    return optimizer


@pytest.mark.parametrize("kind", exported())
def test_every_optimizer_can_be_built(kind):
    try:
        kind([nn.Parameter(torch.zeros(1))])
    except TypeError as error:
        if kind.__name__ in UNBUILT:
            raise AssertionError(
                f"{kind.__name__} cannot be built with its defaults: add it to BUILD in "
                f"tests/helpers/optimizers.py, with the arguments that it needs ({error})."
            ) from error


# ---- state and options ---------------------------------------------------------------------------


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested containers by their place."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: dict[str, Any] = {}
    for key, value in items:
        deep = isinstance(value, (dict, list, tuple))
        found |= flat(value, f"{path}/{key}") if deep else {f"{path}/{key}": value}
    return found


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for place, value in a.items():
        if torch.is_tensor(value):
            assert value.dtype == b[place].dtype, place
            assert torch.equal(value, b[place]), place
        else:
            assert value == b[place], place


@every
@dtypes
def test_the_state_survives_a_file(name, dtype):
    optimizer = two_groups(name, dtype)
    solve(optimizer, 0, 3)
    saved = flat(optimizer.state_dict())
    loaded = flat(resumed(optimizer, two_groups(name, dtype)).state_dict())
    assert_same(saved, loaded)


@every
@dtypes
def test_resumed_equals_never_stopped(name, dtype):
    straight, stopped = two_groups(name, dtype), two_groups(name, dtype)
    start = [parameter(p) for p in weights_of(straight)]
    solve(straight, 0, 6)
    solve(stopped, 0, 3)
    after = resumed(stopped, two_groups(name, dtype))
    solve(after, 3, 6)
    assert_equal(weights_of(after), weights_of(straight))
    assert any(not torch.equal(p, q) for p, q in zip(start, weights_of(straight), strict=True))


@every
def test_a_state_that_is_loaded_is_a_copy(name):
    optimizer = two_groups(name, torch.float32)
    solve(optimizer, 0, 2)
    fresh = two_groups(name, torch.float32)
    fresh.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(flat(optimizer.state_dict()["state"]))
    solve(fresh, 2, 4)
    assert_same(flat(optimizer.state_dict()["state"]), before)


@every
def test_copies_are_independent(name):
    optimizer = BUILD[name](network())
    solve(optimizer, 0, 2)
    copied = copy.deepcopy(optimizer)
    before = [parameter(p) for p in weights_of(optimizer)]
    solve(copied, 2, 4)
    assert_equal(weights_of(optimizer), before)
    solve(optimizer, 2, 4)
    assert_equal(weights_of(optimizer), weights_of(copied))


@every
def test_options_live_in_the_groups(name):
    build = BUILD[name]
    optimizer, plain = build(network()), build.kind(network(), **outside(name))
    assert set(build.arguments) <= set(optimizer.param_groups[0])
    solve(optimizer, 0, 2)
    resumed(optimizer, plain)
    for key, value in optimizer.param_groups[0].items():
        assert key == "params" or plain.param_groups[0][key] == value, key
    solve(optimizer, 2, 4)
    solve(plain, 2, 4)
    assert_equal(weights_of(optimizer), weights_of(plain))


def outside(name: str) -> dict[str, Any]:
    """Return the arguments of a build that no group holds."""
    return {k: v for k, v in BUILD[name].options.items() if k in BUILD[name].elsewhere}


# ---- the closure ---------------------------------------------------------------------------------


@every
def test_the_closure_is_called_with_gradients_on_and_its_loss_returned(name):
    own = network()
    optimizer = BUILD[name](own)
    closure = Quadratic(own, 0)
    expected = Quadratic([parameter(p) for p in own], 0)()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert closure.calls == BUILD[name].calls
    assert closure.enabled
    assert float(loss) == float(expected)


@every
def test_gradients_are_left_alone(name):
    options = {"maximize": [False, True], "foreach": BUILD[name].ways}
    taken = [[(k, v) for v in options[k]] for k in options if k in BUILD[name].arguments]
    taken = [choices for choices in taken if choices]
    for choice in product(*taken):
        own = network(dtype=torch.bfloat16)
        optimizer = BUILD[name](own, **dict(choice))
        for step in range(2):
            closure = Quadratic(own, step)
            optimizer.step(closure)
            for p, gradient in zip(own, closure.given, strict=True):
                assert torch.equal(p.grad, gradient)


@every
def test_maximize_is_the_step_on_the_negative(name):
    if name in UNBUILT and "maximize" not in BUILD[name].arguments:
        pytest.skip("this optimizer only descends")
    up, down = (network(dtype=torch.float64) for _ in range(2))
    solve(BUILD[name](up, maximize=True), 0, 4, sign=-1.0)
    solve(BUILD[name](down), 0, 4)
    assert_equal(up, down)


@every
def test_the_way_of_working_changes_no_bit(name):
    if not BUILD[name].ways:
        pytest.skip("this optimizer has one way of working")
    results = []
    for foreach in BUILD[name].ways:
        results.append([*network(0), *network(1, torch.bfloat16)])
        solve(BUILD[name](results[-1], foreach=foreach), 0, 4)
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[2])


# ---- gradients of other kinds --------------------------------------------------------------------


@every
def test_no_gradient_no_step_and_no_state(name):
    own = network()
    idle = [parameter(p) for p in own]
    optimizer = BUILD[name](own)
    if not BUILD[name].needs_closure:
        optimizer.step()
        assert_equal(own, idle)
        assert not optimizer.state
    optimizer.step(Quadratic(own, 0, used=own[:2]))
    assert_equal(own[2:], idle[2:])
    assert not any(torch.equal(p, q) for p, q in zip(own[:2], idle, strict=False))
    assert not set(own[2:]) & set(optimizer.state)


@every
def test_sparse_gradients_are_refused(name):
    own = network()[:1]
    before = [parameter(p) for p in own]
    optimizer = BUILD[name](own)
    closure = SparseQuadratic(own, 0)
    if name not in UNBUILT:
        with pytest.raises(RuntimeError, match=REFUSAL.format(type(optimizer).__name__)):
            optimizer.step(closure)
        assert_equal(own, before)
        return
    try:
        optimizer.step(closure)
    except RuntimeError as error:
        text, own = str(error), []
    if own:  # not refused, so it must be right
        solve(BUILD[name](before), 0, 1)
        assert_equal(own, before)
    else:
        assert text == REFUSAL.format(type(optimizer).__name__)


@every
def test_empty_tensors_are_passed_over(name):
    empty, x = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.ones(2, 3))
    solve(BUILD[name]([empty, x]), 0, 2)
    assert torch.isfinite(x).all()
    assert not torch.equal(x, torch.ones(2, 3))


@every
def test_two_dtypes_in_one_group(name):
    own = [*network(0), *network(1, torch.float64)]
    before = [parameter(p) for p in own]
    solve(BUILD[name](own), 0, 2)
    for p, q in zip(own, before, strict=True):
        assert p.dtype == q.dtype
        assert torch.isfinite(p).all()
    assert not torch.equal(own[0], before[0])
    assert not torch.equal(own[4], before[4])


# ---- bad input, mixed precision, ranks -----------------------------------------------------------


@every
def test_no_parameters_and_negative_rates_are_refused(name):
    with pytest.raises(ValueError, match="empty parameter list"):
        BUILD[name]([])
    for rate in [a for a in BUILD[name].arguments if a == "lr" or a.endswith("_lr")]:
        with pytest.raises(ValueError, match=f"{rate} must be .*got -0.5"):
            BUILD[name](network(), **{rate: -0.5})
        optimizer = BUILD[name](network())
        with pytest.raises(ValueError, match=f"{rate} must be .*got -0.5"):
            optimizer.add_param_group({"params": network(), rate: -0.5})
        assert len(optimizer.param_groups) == 1


@every
def test_a_scaler_skips_a_step_with_infinite_gradients(name):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    own = network()
    optimizer = BUILD[name](own)
    if BUILD[name].needs_closure:
        with pytest.raises(RuntimeError, match="closure"):
            optimizer.step()
        return

    def step(number: int, sign: float) -> None:
        optimizer.zero_grad()
        Quadratic(own, number, sign=sign)()
        scaler.scale(torch.zeros(()))
        for p in own:
            p.grad.mul_(scaler.get_scale())
        scaler.step(optimizer)
        scaler.update()

    step(0, 1.0)
    weights, state = [parameter(p) for p in own], copy.deepcopy(flat(optimizer.state_dict()))
    step(1, float("inf"))
    assert_equal(own, weights)
    assert_same(flat(optimizer.state_dict()), state)
    step(2, 1.0)
    assert not torch.equal(own[0], weights[0])


def half_of_the_rows(names: list[str]) -> dict[str, list[torch.Tensor]]:
    """Return the weights after steps of which this rank has half of the rows."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = {}
    for name in names:
        own = network(dtype=torch.float64)
        solve(BUILD[name](own), 0, 4, rows=slice(rank, None, world))
        found[name] = [p.detach() for p in own]
    return found


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ON_RANKS, id="one setting of each"),
        pytest.param(
            [n for n in BUILD if n not in ON_RANKS], id="others", marks=pytest.mark.combination
        ),
    ],
)
def test_two_ranks_take_the_steps_of_one(names, two_ranks):
    of_ranks = two_ranks(half_of_the_rows, names)
    for name in names:
        own = network(dtype=torch.float64)
        solve(BUILD[name](own), 0, 4)
        for found in of_ranks:
            torch.testing.assert_close(found[name], [p.detach() for p in own], rtol=1e-9, atol=1e-9)
