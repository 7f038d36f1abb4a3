"""YOLOv5's recipe: rates and momentum of chosen steps, and the same after a resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from framework.optim import decay_norm_bias_groups
from framework.schedules import MomentumWarmupCosine
from tests.helpers.configs import arguments
from tests.helpers.runs import fit
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer
from tests.test_resume import assert_same_bits, kill_and_resume

LAYERS = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


def build(optimizer: Any = None, **options: Any) -> MomentumWarmupCosine:
    if optimizer is None:
        optimizer = partial(SGD, lr=0.01, momentum=0.937, nesterov=True, weight_decay=5e-4)
    return MomentumWarmupCosine(optimizer(decay_norm_bias_groups(LAYERS)), **options)


def advance(schedule: MomentumWarmupCosine, steps: int) -> None:
    for _ in range(steps):
        schedule.optimizer.step()
        schedule.step()


def momentums(optimizer: Optimizer) -> list[float]:
    return [g["betas"][0] if "betas" in g else g["momentum"] for g in optimizer.param_groups]


def test_the_groups_are_weights_norms_and_biases() -> None:
    decayed, norms, biases = decay_norm_bias_groups(LAYERS)
    assert [
        p is q for p, q in zip(decayed["params"], (LAYERS[0].weight, LAYERS[2].weight), strict=True)
    ]
    assert norms["params"][0] is LAYERS[1].weight
    assert [p.shape for p in biases["params"]] == [(4,), (4,)]
    assert "weight_decay" not in decayed
    assert norms["weight_decay"] == biases["weight_decay"] == 0
    assert [g.get("bias", False) for g in (decayed, norms, biases)] == [False, False, True]
    frozen = nn.Linear(2, 2).requires_grad_(False)
    assert decay_norm_bias_groups(frozen) == []


@pytest.mark.parametrize(
    ("step", "weight", "bias", "momentum"),
    [
        (0, 0.0, 0.1, 0.8),
        # a tenth of the way to the cosine's 0.01 * (1 - 0.4 * (1 - cos(pi / 100))) = 0.00999802624
        (100, 0.000999802624, 0.090999802624, 0.8137),
        # half of the way to 0.01 * (1 - 0.4 * 0.01231166) = 0.00995075336
        (500, 0.00497537668, 0.05497537668, 0.8685),
        # the warm-up ends on the cosine, which has been falling since step 0
        (1000, 0.00980422607, 0.00980422607, 0.937),
        (5000, 0.006, 0.006, 0.937),
        (10000, 0.002, 0.002, 0.937),
    ],
)
def test_values_of_the_recipe(step: int, weight: float, bias: float, momentum: float) -> None:
    schedule = build(total_steps=10_000, warmup_fraction=0.03, min_warmup_steps=1000)
    schedule._step_count = 0  # the optimizer need not run up to this step
    schedule.last_epoch = step - 1
    schedule.step()
    assert schedule.get_last_lr() == pytest.approx([weight, weight, bias], rel=1e-8, abs=1e-15)
    assert momentums(schedule.optimizer) == pytest.approx([momentum] * 3, rel=1e-12)


def test_the_length_of_the_warm_up() -> None:
    assert build(total_steps=101).warmup_steps == 4  # ceil(3.03)
    assert build(total_steps=101, min_warmup_steps=3).warmup_steps == 4
    assert build(total_steps=101, min_warmup_steps=1000).warmup_steps == 1000
    plain = build(total_steps=4, warmup_fraction=0)
    assert plain.get_last_lr() == [0.01] * 3
    assert momentums(plain.optimizer) == [0.937] * 3
    advance(plain, 6)
    assert plain.get_last_lr() == pytest.approx([0.002] * 3, rel=1e-12)


def test_adams_first_beta_is_its_momentum() -> None:
    schedule = build(
        partial(AdamW, lr=0.001, betas=(0.9, 0.99)), total_steps=8, warmup_fraction=0.5
    )
    seen = []
    for _ in range(5):
        seen.append(schedule.optimizer.param_groups[0]["betas"])
        advance(schedule, 1)
    assert [first for first, _ in seen] == pytest.approx([0.8, 0.825, 0.85, 0.875, 0.9])
    assert {second for _, second in seen} == {0.99}


def test_an_optimizer_without_momentum_is_refused() -> None:
    for optimizer, name in ((partial(SGD, lr=0.1), "SGD"), (partial(Adagrad, lr=0.1), "Adagrad")):
        with pytest.raises(ValueError, match=f"needs an optimizer with momentum, and {name}"):
            build(optimizer, total_steps=4)
        schedule = build(optimizer, total_steps=4, warmup_momentum=None, warmup_fraction=0.5)
        assert schedule.get_last_lr() == [0, 0, 0.1]
        advance(schedule, 1)
        assert schedule.optimizer.param_groups[0].get("momentum", 0) == 0


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"warmup_fraction": 1.1}, "warmup_fraction"),
        ({"final_fraction": -0.1}, "final_fraction"),
        ({"warmup_momentum": 1.0}, "warmup_momentum"),
        ({"min_warmup_steps": -1}, "min_warmup_steps"),
        ({"bias_lr": -0.1}, "bias_lr"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        build(total_steps=4, **options)


def test_a_restored_schedule_goes_on() -> None:
    whole, first, second = (build(total_steps=9, warmup_fraction=0.7) for _ in range(3))
    advance(first, 3)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    advance(whole, 3)
    for _ in range(6):
        assert second.get_last_lr() == whole.get_last_lr()
        assert momentums(second.optimizer) == momentums(whole.optimizer)
        advance(whole, 1)
        advance(second, 1)


def test_a_run_counts_optimizer_steps(tmp_path: Path) -> None:
    module = TinyModule()
    module.parameter_groups = lambda: decay_norm_bias_groups(module)  # type: ignore[method-assign]
    module.optimizer = partial(SGD, lr=0.01, momentum=0.937)  # type: ignore[assignment]
    module.lr_scheduler = partial(MomentumWarmupCosine, warmup_fraction=0.5)
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=2, accumulate_grad_batches=2)
    trainer.fit(module, TinyData())
    schedule: Any = trainer.lr_scheduler_configs[0].scheduler
    assert (schedule.total_steps, schedule.warmup_steps, schedule.last_epoch) == (6, 3, 6)
    assert schedule.get_last_lr() == pytest.approx([0.002, 0.002])


SGD_WITH_SCHEDULE = [
    "--model.optimizer=SGD",
    "--model.optimizer.lr=0.05",
    "--model.optimizer.momentum=0.9",
    "--model.lr_scheduler=MomentumWarmupCosine",
    "--model.lr_scheduler.warmup_fraction=0.8",
]


def test_a_killed_run_resumes_bitwise_in_the_warm_up(tmp_path: Path) -> None:
    args = [*arguments("classifier"), *SGD_WITH_SCHEDULE]
    whole, resumed = kill_and_resume(args, tmp_path, kill_at=7)
    assert_same_bits(whole, resumed)


def test_momentum_warms_up_in_a_run(tmp_path: Path) -> None:
    args = [*arguments("classifier"), *SGD_WITH_SCHEDULE, f"--run_folder={tmp_path}"]
    record = fit([*args, "--model.lr_scheduler.min_warmup_steps=8", "--trainer.max_steps=4"])
    assert record.steps
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    # half of the way from 0.8 to 0.9
    assert [group["momentum"] for group in groups] == pytest.approx([0.85] * len(groups))
