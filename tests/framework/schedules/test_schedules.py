"""The learning rate of every step, and the length of the run that a schedule is told."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from framework.schedules import (
    InverseDecay,
    WarmupCosine,
    WarmupPolyLR,
    WarmupPolynomial,
    WarmupStableDecay,
)
from framework.schedules.steps import resolve_total_steps, total_steps_from
from tests.helpers.tiny import TinyData, tiny_trainer


def rates(schedule: LambdaLR, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return values


def build(**kwargs: Any) -> WarmupCosine:
    return WarmupCosine(SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0), **kwargs)


def test_a_warm_up_and_half_a_cosine() -> None:
    schedule = build(total_steps=8, warmup_fraction=0.4, final_fraction=0.1)  # w = ceil(3.2) = 4
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    expected = [2 * f for f in (0.25, 0.5, 0.75, 1.0, *cosine)]
    assert rates(schedule, 8) == pytest.approx(expected, rel=1e-12)
    # after the run, and for ever
    assert rates(schedule, 3) == pytest.approx([0.2] * 3, rel=1e-12)


def test_without_warm_up_it_starts_at_the_top_and_ends_at_zero() -> None:
    assert rates(build(total_steps=2), 3) == pytest.approx([2.0, 1.0, 0.0], abs=1e-15)


def test_a_restored_schedule_goes_on() -> None:
    whole, first, second = (build(total_steps=7, warmup_fraction=0.3) for _ in range(3))
    expected = rates(whole, 7)
    assert rates(first, 3) == expected[:3]
    state = first.state_dict()
    second.load_state_dict(state)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 4) == expected[3:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 4, "warmup_fraction": 1.0}, "warmup_fraction"),
        ({"total_steps": 4, "final_fraction": -0.1}, "final_fraction"),
        ({"total_steps": 0}, "total_steps must be"),
        ({"total_steps": "ten"}, "total_steps must be"),
        ({}, "in another LightningModule give total_steps=self"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_auto_is_the_length_of_the_run() -> None:
    trainer: Any = SimpleNamespace(estimated_stepping_batches=12, limit_train_batches=1.0)
    with total_steps_from(trainer):
        assert resolve_total_steps("auto") == 12
        assert rates(build(), 12) == rates(build(total_steps=12), 12)
    with pytest.raises(ValueError, match="in another LightningModule give total_steps=self"):
        resolve_total_steps("auto")


# Lightning says -1 of an iterable data set without max_steps
@pytest.mark.parametrize("steps", [float("inf"), -1])
def test_a_run_without_an_end_is_refused(steps: float) -> None:
    trainer: Any = SimpleNamespace(estimated_stepping_batches=steps, limit_train_batches=1.0)
    with total_steps_from(trainer), pytest.raises(ValueError, match="a run with an end"):
        resolve_total_steps("auto")


class Plain(LightningModule):
    """A module of one's own, with the length of the run as the message of ``'auto'`` says."""

    def __init__(self, auto: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)
        self.auto = auto

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch["image"]).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=1.0)
        length = self.trainer.estimated_stepping_batches
        schedule = WarmupCosine(optimizer, "auto" if self.auto else int(length))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def test_a_module_of_ones_own_gives_the_length_of_its_run(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, [], False)
    loader: Any = DataLoader(TinyData().train_set, 4)  # type: ignore[arg-type]
    trainer.fit(Plain(auto=False), loader)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"give total_steps=self\.trainer\.estimated_stepping"):
        tiny_trainer(tmp_path, [], False).fit(Plain(auto=True), loader)


def test_a_trapezoid() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupStableDecay(optimizer, 10, warmup_fraction=0.25, decay_fraction=0.4)
    expected = [2 / 3, 4 / 3, 2, 2, 2, 2, 2, 1.5, 1, 0.5]
    assert rates(schedule, 10) == pytest.approx(expected, rel=1e-12)
    assert rates(schedule, 2) == [0, 0]
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    constant = WarmupStableDecay(optimizer, 3, warmup_fraction=0.0, decay_fraction=0.0)
    assert rates(constant, 3) == [2, 2, 2]
    with pytest.raises(ValueError, match="decay_fraction must lie in"):
        WarmupStableDecay(optimizer, 3, decay_fraction=1.5)


def test_an_inverse_decay() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    expected = [2.0, 2 / 4**0.5, 2 / 7**0.5, 2 / 10**0.5]
    assert rates(InverseDecay(optimizer, gamma=3.0, power=0.5), 4) == pytest.approx(expected)
    published = InverseDecay(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3))
    # after 0, 1000 and 30 000 steps, the last of the published run
    factors = [published.lr_lambdas[0](step) for step in (0, 1000, 30_000)]
    assert factors == pytest.approx([1.0, 0.594604, 0.076117], abs=1e-6)
    constant = InverseDecay(SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0), gamma=0.0)
    assert rates(constant, 3) == [2, 2, 2]


def test_an_inverse_decay_keeps_the_ratio_of_the_groups() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = SGD([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}], lr=1.0)
    schedule = InverseDecay(optimizer, gamma=1.0, power=1.0)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([0.05, 0.5])


@pytest.mark.parametrize(("name", "value"), [("gamma", -1.0), ("power", math.nan)])
def test_an_inverse_decay_out_of_range_is_refused(name: str, value: float) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=f"{name} must be (finite and )?at least 0"):
        InverseDecay(optimizer, **{name: value})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"total_steps": 4}, [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]),
        ({"total_steps": 4, "power": 2}, [2.0, 1.125, 0.5, 0.125, 0.0, 0.0]),
        # w = 2: the base at t = w, and 0 at t = T
        ({"total_steps": 6, "warmup_fraction": 0.3}, [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]),
        ({"total_steps": 1, "warmup_fraction": 0.5}, [2.0, 0.0]),
    ],
)
def test_a_warm_up_and_a_polynomial(arguments: dict[str, Any], expected: list[float]) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupPolynomial(optimizer, **arguments)
    assert rates(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # t = 1, ..., 5 with a T = 2
        ({"total_steps": 5, "warmup": 0.4}, [1.0, 2.0, 4 / 3, 2 / 3, 0.0, 0.0]),
        # a T = 1.5 is no whole number, so that the peak lies between steps 1 and 2
        (
            {"total_steps": 5, "warmup": 0.3, "power": 2.0},
            [4 / 3, 2 * (3 / 3.5) ** 2, 2 * (2 / 3.5) ** 2, 2 * (1 / 3.5) ** 2, 0.0],
        ),
        ({"total_steps": 4, "warmup": 0.0, "power": 1.5}, [2 * 0.75**1.5, 2 * 0.5**1.5, 0.25, 0.0]),
        ({"total_steps": 1, "warmup": 0.0}, [0.0, 0.0]),
    ],
)
def test_a_parametric_form(options: dict[str, Any], expected: list[float]) -> None:
    schedule = WarmupPolyLR(SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0), **options)
    assert rates(schedule, len(expected)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "arguments"),
    [
        (WarmupPolynomial, {"power": 0}),
        (WarmupPolynomial, {"warmup_fraction": 1.0}),
        (WarmupPolynomial, {"total_steps": 0}),
        (WarmupPolyLR, {"power": 0}),
        (WarmupPolyLR, {"warmup": 1.0}),
        (WarmupPolyLR, {"total_steps": 0}),
    ],
)
def test_a_polynomial_that_cannot_be(schedule: Any, arguments: dict[str, Any]) -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        schedule(optimizer, **{"total_steps": 4, **arguments})
