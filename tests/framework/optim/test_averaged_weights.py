"""An average of weights: its decay, what it follows, and that a module computes with it."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from framework.objectives.errors import IncompatibleError
from framework.ops.moving_average import move_average
from framework.optim.averaged_weights import AveragedWeights, named_weights


class Scaled(nn.Module):
    """A layer, batch norm, a shared weight, and a buffer that no checkpoint holds."""

    constant: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.shared = nn.Linear(3, 3, bias=False)
        self.shared.weight = self.layer.weight
        self.register_buffer("constant", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared(self.norm(self.layer(x))) * self.constant


def step(module: nn.Module) -> None:
    """Change weights and statistics as a training step does."""
    module(torch.rand(4, 3, dtype=next(module.parameters()).dtype))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand_like(parameter))


def test_its_names_are_those_of_the_state() -> None:
    module = Scaled()
    assert named_weights(module).keys() == module.state_dict().keys()
    assert AveragedWeights(module).average.keys() == module.state_dict().keys()


@pytest.mark.parametrize(("decay", "ramp"), [(0.9999, 2000), (0.9, 3), (0.7, 0)])
def test_the_recursion(decay: float, ramp: float) -> None:
    torch.manual_seed(0)
    module = Scaled().double()
    ema = AveragedWeights(module, decay, ramp)
    expected = deepcopy(module.state_dict())
    for update in range(1, 5):
        step(module)
        ema.update()
        share = decay * (1 - math.exp(-update / ramp)) if ramp else decay
        for name, latest in module.state_dict().items():
            if latest.is_floating_point():
                expected[name] = share * expected[name] + (1 - share) * latest
            else:
                expected[name] = latest.clone()
            assert torch.allclose(ema.average[name], expected[name], rtol=1e-12), name
    assert ema.updates == 4
    assert ema.average["norm.num_batches_tracked"] == 4


@pytest.mark.parametrize(
    ("updates", "share"), [(1, 0.000499825), (2000, 0.632057), (10_000, 0.993163)]
)
def test_the_ramp_of_yolov5(updates: int, share: float) -> None:
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(module.weight)
    ema = AveragedWeights(module)
    ema.average["weight"].fill_(1)
    ema.updates = updates - 1
    ema.update()
    assert ema.average["weight"].item() == pytest.approx(share, abs=1e-6)


@torch.no_grad()
def test_a_module_computes_with_the_average_and_gets_its_weights_back() -> None:
    torch.manual_seed(0)
    module = Scaled()
    ema = AveragedWeights(module, 0.5, 0)
    step(module)
    ema.update()
    before = deepcopy(module.state_dict())
    parameters = list(module.parameters())
    with ema.applied():
        ema.apply()  # once more does nothing
        assert all(torch.equal(v, ema.average[n]) for n, v in module.state_dict().items())
        assert all(torch.equal(v, ema.latest[n]) for n, v in before.items())
        with pytest.raises(RuntimeError, match="restore them before a step"):
            ema.update()
    assert not ema.is_applied
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    # the same objects, which an optimizer and compiled code hold
    assert all(p is q for p, q in zip(parameters, module.parameters(), strict=True))


@torch.no_grad()
def test_compiled_code_computes_with_the_average() -> None:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    module.compile(backend="eager")
    ema = AveragedWeights(module, 0.5, 0)
    nn.init.ones_(module.weight)
    assert module(torch.ones(1, 2)).item() == 2
    ema.update()
    with ema.applied():
        assert module(torch.ones(1, 2)).item() == 1
    assert module(torch.ones(1, 2)).item() == 2


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    module = Scaled()
    first = AveragedWeights(module, 0.9, 5)
    step(module)
    first.update()
    second = AveragedWeights(module, 0.9, 5)
    second.load_state_dict(deepcopy(first.state_dict()))
    step(module)
    for ema in (first, second):
        ema.update()
    assert second.updates == 2
    assert all(torch.equal(v, second.average[n]) for n, v in first.average.items())
    with pytest.raises(
        ValueError, match=r"'weight' has the shape \[2, 2\], and the checkpoint none"
    ):
        AveragedWeights(nn.Linear(2, 2)).load_state_dict(first.state_dict())


def test_other_names_are_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    ema = AveragedWeights(module)
    module.append(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match=r"'1\.bias' came or went after the start"):
        ema.update()


@pytest.mark.parametrize(("decay", "ramp", "name"), [(1.0, 1, "decay"), (0.9, -1, "ramp")])
def test_a_wrong_argument_is_named(decay: float, ramp: float, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        AveragedWeights(nn.Linear(1, 1), decay, ramp)


def test_half_precision_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="bfloat16 are too coarse for an average"):
        AveragedWeights(nn.Linear(1, 1, dtype=torch.bfloat16))


def test_no_decay_copies_to_the_bit() -> None:
    average, latest = torch.rand(100), torch.rand(100)
    move_average([average], [latest], 0.0)
    assert torch.equal(average, latest)
    move_average([], [], 0.5)


def test_what_holds_an_infinity_is_copied_and_a_constant_stays_exact() -> None:
    module = nn.Linear(2, 1)
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    module.register_buffer("constant", torch.tensor([0.1, 0.7]))
    average = AveragedWeights(module, decay=0.9, ramp=0)
    for _ in range(3):
        average.update()
    assert average.average["mask"].tolist() == [0.0, -torch.inf]
    assert torch.equal(average.average["constant"], module.constant)
