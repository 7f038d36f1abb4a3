"""When a phase ends, which weights it keeps, and that a restart changes neither."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from modules.depict.phases import Phase, load_parameters


def layer(value: float) -> nn.Linear:
    made = nn.Linear(2, 1)
    set_to(made, value)
    return made


def set_to(network: nn.Module, value: float) -> None:
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)


def weight(network: nn.Module) -> float:
    values = {value for p in network.parameters() for value in p.flatten().tolist()}
    assert len(values) == 1
    return values.pop()


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint makes of it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def end(phase: Phase, scores: list[float]) -> int:
    """The number of epochs until the phase is over."""
    for epoch, score in enumerate(scores):
        if phase.is_over(phase.first_epoch + epoch):
            return epoch
        phase.report(score, layer(0))
    return len(scores) if phase.is_over(phase.first_epoch + len(scores)) else -1


@pytest.mark.parametrize("first_epoch", [0, 7])
@pytest.mark.parametrize("max_epochs", [0, 1, 4])
def test_it_ends_after_its_epochs(max_epochs: int, first_epoch: int) -> None:
    phase = Phase("joint", max_epochs, first_epoch=first_epoch)
    over = [phase.is_over(first_epoch + epoch) for epoch in range(6)]
    assert over == [epoch >= max_epochs for epoch in range(6)]


@pytest.mark.parametrize(
    ("patience", "scores", "epochs"),
    [
        (1, [3, 2, 2, 0], 3),  # an equal score is no gain
        (2, [3, 2, 4, 1, 5, 5, 0], 6),  # a gain starts the count anew
        (2, [3, 4, 4, 0], 3),
        (3, [5, 4, 3, 2, 1, 0, -1, -2, -3, -4], 10),  # gains without end
        (None, [1] * 10, 10),
        (2, [math.nan, math.nan, 0], 2),  # NaN is no gain
        (20, [1] * 10, 10),
    ],
)
def test_it_ends_when_nothing_was_gained_for_so_many_epochs(
    patience: int | None, scores: list[float], epochs: int
) -> None:
    assert end(Phase("head", 10, patience, first_epoch=3), scores) == epochs


def test_once_converged_it_stays_over() -> None:
    phase = Phase("head", 10, patience=2)
    for score in (1.0, 2.0, 2.0, 0.5, 0.6):
        phase.report(score, layer(0))
    assert phase.is_over(0)


def test_the_best_weights_come_back() -> None:
    phase, network = Phase("autoencoder", 10), layer(0)
    parameters = list(network.parameters())
    for value, score in ((1, 0.5), (2, 0.1), (3, 0.1), (4, 0.3), (5, math.nan)):
        set_to(network, value)
        phase.report(score, network)
    set_to(network, 6)
    phase.restore_best(network)
    assert weight(network) == 2
    assert phase.best_score == 0.1
    # the optimizer knows these objects
    assert all(map(lambda a, b: a is b, parameters, network.parameters()))
    assert all(p.requires_grad and p.is_leaf for p in network.parameters())
    # training goes on and leaves what was kept
    set_to(network, 7)
    phase.restore_best(network)
    assert weight(network) == 2


@pytest.mark.parametrize("scores", [[], [math.nan]])
def test_without_a_score_there_is_nothing_to_restore(scores: list[float]) -> None:
    phase, network = Phase("autoencoder", 10), layer(3)
    for score in scores:
        phase.report(score, network)
    phase.restore_best(network)
    assert weight(network) == 3


@pytest.mark.parametrize("stop", range(8))
def test_a_restart_at_any_epoch_changes_nothing(stop: int) -> None:
    scores = [4.0, 3.0, 5.0, 2.0, 2.5, 2.2, 2.1, 0.0]

    def run(phase: Phase, epochs: range) -> None:
        for epoch in epochs:
            phase.report(scores[epoch], layer(epoch))

    whole = Phase("head", 20, patience=3, first_epoch=2)
    run(whole, range(stop))
    state = stored(whole.state_dict())
    resumed = Phase("head", 20, patience=3)
    resumed.load_state_dict(state)
    for phase in (whole, resumed):
        run(phase, range(stop, 8))
    assert whole.converged
    for name in ("name", "first_epoch", "best_score", "epochs_without_gain", "converged"):
        assert getattr(resumed, name) == getattr(whole, name)
    networks = layer(-1), layer(-1)
    for phase, network in zip((whole, resumed), networks, strict=True):
        phase.restore_best(network)
    assert weight(networks[0]) == weight(networks[1]) == 7


def test_a_saved_state_does_not_follow_the_phase() -> None:
    phase, network = Phase("head", 10), layer(1)
    phase.report(2.0, network)
    state = phase.state_dict()
    set_to(network, 5)
    phase.report(1.0, network)
    assert state["best_score"] == 2
    assert {float(p.max()) for p in state["best_weights"].values()} == {1}


def test_weights_are_loaded_by_name() -> None:
    network = nn.Linear(2, 2)
    weights = {"bias": torch.tensor([1.0, 2.0]), "weight": torch.tensor([[3.0, 4.0], [5.0, 6.0]])}
    load_parameters(network, weights)
    assert network.bias.tolist() == [1, 2]
    assert network.weight.tolist() == [[3, 4], [5, 6]]
    assert network.weight is not weights["weight"]
