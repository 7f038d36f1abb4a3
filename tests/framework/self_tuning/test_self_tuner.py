"""What tunes hyperparameters in any training loop."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.distributed.collectives import rank, world_size
from framework.objectives.errors import IncompatibleError
from framework.self_tuning import Effect, HyperParameter, InputDropout, SelfTuner, TunedDropout


class Ridge(Effect):
    """Gives the loss of a test a penalty of its own, exp(h)."""

    def __init__(self) -> None:
        super().__init__("ridge", {"log": HyperParameter(0.0)})


def perceptron(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def rows_of(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, 6, generator=generator, dtype=dtype)
    return x, torch.randint(3, (count,), generator=generator)


def train(tuner: SelfTuner, optimizer: Any, steps: range, seen: list[float] | None = None) -> None:
    x, label = rows_of(32)
    for step in steps:
        with tuner.training(rows=16, step=step):
            batch = tuner.change_batch({"image": x[:16], "label": label[:16]})
            loss = F.cross_entropy(tuner.network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        if tuner.is_due(step + 1):
            for _ in range(tuner.tune_steps):
                tuner.tune(lambda: F.cross_entropy(tuner.network(x[16:]), label[16:]), rows=16)
        if seen is not None:
            seen.append(float(loss.detach()))


def dropout_tuner(network: nn.Module, **kwargs: Any) -> SelfTuner:
    effects = [InputDropout(), TunedDropout(layers="1")]
    return SelfTuner(network, effects, hyper_lr=0.1, scale_lr=0.1, seed=3, **kwargs)


def everything(tuner: SelfTuner) -> dict[str, Tensor]:
    return tuner.network.state_dict() | tuner.space.state_dict()


def copied(tuner: SelfTuner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in everything(tuner).items()}


def changed(tuner: SelfTuner, before: dict[str, Tensor]) -> set[str]:
    after = everything(tuner)
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_a_training_step_changes_no_hyperparameter_and_a_tuning_step_nothing_else() -> None:
    network = perceptron()
    tuner = dropout_tuner(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    tuned = {"raw", "raw_scales"}
    assert not [*tuner.space.parameters()]
    train(tuner, optimizer, range(3))
    before = copied(tuner)
    train(tuner, optimizer, range(4, 5))
    assert not tuner.is_due(5)
    assert changed(tuner, before)
    assert not changed(tuner, before) & tuned
    before, (x, label) = copied(tuner), rows_of(32)
    rng = torch.get_rng_state()
    tuner.tune(lambda: F.cross_entropy(network(x), label), rows=32)
    assert changed(tuner, before) == tuned
    assert torch.equal(torch.get_rng_state(), rng)
    assert network.training
    assert all(p.grad is None or p.requires_grad for p in network.parameters())


def test_without_tuned_scales_the_scales_stay() -> None:
    network = perceptron()
    tuner = dropout_tuner(network, tune_scales=False)
    before, (x, label) = copied(tuner), rows_of(32)
    tuner.tune(lambda: F.cross_entropy(network(x), label), rows=32)
    assert changed(tuner, before) == {"raw"}


def test_rounds_follow_the_warm_up_and_every_few_steps() -> None:
    tuner = dropout_tuner(perceptron(), warmup_steps=4, train_steps=3)
    assert [step for step in range(12) if tuner.is_due(step)] == [7, 10]


@pytest.mark.parametrize("centered", [False, True])
def test_folding_leaves_the_ordinary_network_of_the_response(centered) -> None:
    network = perceptron()
    names = list(network.state_dict())
    tuner = dropout_tuner(network, centered=centered)
    train(tuner, torch.optim.SGD(network.parameters(), lr=0.1), range(6))
    x, _ = rows_of(8)
    network.eval()
    expected = network(x)
    tuner.fold()
    assert list(network.state_dict()) == names
    torch.testing.assert_close(network(x), expected)
    # dropout is gone, too
    network.train()
    torch.testing.assert_close(network[1](torch.ones(2, 8)), torch.ones(2, 8))


def test_the_scalar_quadratic_is_tuned_to_its_optimum() -> None:
    """L_T = ((w - 2)^2 + exp(h) w^2) / 2 and L_V = (w - 0.5)^2 / 2 meet at h = ln 3."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 1, bias=False)).double()
    effect = Ridge()
    tuner = SelfTuner(
        network, [effect], hyper_lr=0.02, tune_scales=False, init_scale=0.2, warmup_steps=200
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    one = torch.ones(64, 1, dtype=torch.float64)
    for step in range(1500):
        with tuner.training(rows=64, step=step):
            assert effect.active is not None
            w = network(one)[:, 0]
            penalty = effect.active["log"].double().exp()
            optimizer.zero_grad()
            (0.5 * (w - 2).square() + 0.5 * penalty * w.square()).mean().backward()
        optimizer.step()
        if tuner.is_due(step + 1):
            tuner.tune(lambda: 0.5 * (network(one[:1]) - 0.5).square().mean(), rows=1)
    assert tuner.values()["ridge.log"] == pytest.approx(math.log(3), abs=0.05)


def test_a_run_goes_on_from_its_state_with_the_same_bits() -> None:
    torch.manual_seed(0)
    whole: list[float] = []
    tuner = dropout_tuner(perceptron())
    train(tuner, torch.optim.SGD(tuner.network.parameters(), lr=0.1), range(9), whole)

    first = dropout_tuner(perceptron())
    parts: list[float] = []
    train(first, torch.optim.SGD(first.network.parameters(), lr=0.1), range(5), parts)
    second = dropout_tuner(perceptron(seed=9))
    second.network.load_state_dict(first.network.state_dict())
    second.load_state_dict(first.state_dict())
    train(second, torch.optim.SGD(second.network.parameters(), lr=0.1), range(5, 9), parts)
    assert parts == whole
    assert second.values() == tuner.values()
    assert second.scales() == tuner.scales()


def summed_loss(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(network(x), label, reduction="sum") * world_size() / 16


def tuned_on_ranks(dtype: torch.dtype, per_sample: bool) -> tuple[dict[str, float], list[Tensor]]:
    """Return what a few steps on this rank's uneven part of each batch lead to."""
    network = perceptron(dtype=dtype)
    network[2] = nn.Identity()
    tuner = dropout_tuner(network, per_sample=per_sample)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, label = rows_of(32, dtype)
    parts = [slice(0, 11), slice(11, 16)] if world_size() > 1 else [slice(0, 16)]
    own = parts[rank()]
    for step in range(6):
        with tuner.training(own.stop - own.start, step):
            batch = tuner.change_batch({"image": x[:16][own]})
            loss = F.cross_entropy(network(batch["image"]), label[:16][own], reduction="sum") / 16
            gradients = torch.autograd.grad(loss, list(network.parameters()))
        for p, g in zip(network.parameters(), gradients, strict=True):
            if world_size() > 1:
                torch.distributed.all_reduce(g)
            p.grad = g
        optimizer.step()
        if tuner.is_due(step + 1):
            tuner.tune(partial(summed_loss, network, x[16:][own], label[16:][own]), len(x[own]))
    return tuner.values() | tuner.scales(), [p.detach() for p in network.parameters()]


@pytest.mark.parametrize("per_sample", [True, False])
def test_two_ranks_tune_as_one_process(two_ranks, per_sample) -> None:
    values, weights = tuned_on_ranks(torch.float64, per_sample)
    for found, others in two_ranks(tuned_on_ranks, torch.float64, per_sample):
        # the hyperparameters are float32
        assert found == pytest.approx(values, rel=1e-5)
        for own, other in zip(weights, others, strict=True):
            torch.testing.assert_close(other, own, rtol=1e-5, atol=1e-6)


def test_a_network_that_is_refused_stays_as_it_was() -> None:
    network = perceptron()
    kinds, names = [type(layer) for layer in network], list(network.state_dict())
    dropout, unknown = TunedDropout(layers="1"), TunedDropout(layers="hidden", name="other")
    with pytest.raises(ValueError, match="'hidden' matches no layer"):
        SelfTuner(network, [dropout, unknown])
    with pytest.raises(ValueError, match="none of"):
        SelfTuner(network, [dropout], exclude=["*"])
    assert [type(layer) for layer in network] == kinds
    assert list(network.state_dict()) == names
    assert not any(layer._forward_hooks for layer in network)


def test_what_cannot_be_tuned_is_refused() -> None:
    tuner = dropout_tuner(perceptron())
    with pytest.raises(IncompatibleError, match="does not depend on the hyperparameters"):
        tuner.tune(lambda: torch.ones((), requires_grad=True) * 2, rows=4)
    with pytest.raises(IncompatibleError, match="does not depend on the hyperparameters"):
        tuner.tune(lambda: torch.ones(()), rows=4)
    before, (x, _) = copied(tuner), rows_of(4)
    with pytest.raises(FloatingPointError, match="by tuning step 0"):
        tuner.tune(lambda: tuner.network(x).mean() * float("nan"), rows=4)
    assert not changed(tuner, before)
    with pytest.raises(ValueError, match=r"one number, got Tensor of shape \(4, 3\): return"):
        tuner.tune(lambda: tuner.network(x), rows=4)
    with pytest.raises(ValueError, match="one number, got NoneType: return"):
        tuner.tune(lambda: None, rows=4)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="have the name 'ridge'"):
        SelfTuner(perceptron(), [Ridge(), Ridge()])
    with pytest.raises(ValueError, match="at least one effect"):
        SelfTuner(perceptron(), [])
    with pytest.raises(ValueError, match="train_steps"):
        dropout_tuner(perceptron(), train_steps=0)
