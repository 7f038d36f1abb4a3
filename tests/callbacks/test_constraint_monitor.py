"""The monitor's three values, against a run by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import Logger
from torch import nn
from torch.utils.data import DataLoader

from callbacks import ConstraintMonitor
from framework.objectives.errors import IncompatibleError
from framework.optim import LionK
from tests.helpers.tiny import tiny_trainer

SHIFTS = torch.linspace(-1, 1, 8, dtype=torch.float64)
NAMES = ("lion/violation", "lion/saturated", "lion/lyapunov")


class Quadratic(LightningModule):
    """|W - target|^2 / 2 + |b - 1 - shift|^2 / 2, the batches differing in their shift."""

    def __init__(self, weight: float = 0.5, optimizer: Any = LionK, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 3), weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.idle = nn.Parameter(torch.full((2,), 1e6, dtype=torch.float64))
        self.target = torch.arange(6, dtype=torch.float64).view(2, 3) - 2
        self.options = {"lr": 0.01, "weight_decay": 0.5, **options}
        self.build = optimizer
        self.steps: list[dict[str, Any]] = []

    def training_step(self, shift: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.weight - self.target).square().sum() / 2
        loss = loss + (self.bias - 1 - shift.mean()).square().sum() / 2
        optimizer = self.trainer.optimizers[0]
        momenta = [optimizer.state[p].get("exp_avg") for p in (self.weight, self.bias)]
        seen: list[torch.Tensor] = [self.weight.detach(), self.bias.detach()]
        seen += [
            torch.zeros_like(s) if m is None else m for s, m in zip(seen, momenta, strict=True)
        ]
        self.steps.append({"loss": loss.item(), "seen": [s.clone() for s in seen]})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [
            {"params": [self.weight, self.idle]},
            {"params": [self.bias], "weight_decay": 0.0},
        ]
        return self.build(groups, **self.options)


class Rows(Logger):
    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics, step=None):
        if "lion/violation" in metrics:
            self.rows.append({**metrics, "step": step})

    def log_hyperparams(self, *args, **kwargs):
        pass


def run(folder, module, every=1, batch=8, epochs=1, **settings):
    logger = Rows()
    trainer = tiny_trainer(
        folder, [ConstraintMonitor(every)], logger, max_epochs=epochs, **settings
    )
    trainer.fit(module, DataLoader(SHIFTS, batch_size=batch))
    return logger.rows


def huber(c, e):
    size = c.abs()
    return torch.where(size <= e, size**2 / (2 * e), size - e / 2).sum()


def by_hand(step, loss, lr=0.01, wd=0.5, beta1=0.9, beta2=0.99, e=0.2):
    """H of the specification for huber, on a weight with decay and a bias without."""
    weight, _, weight_momentum, bias_momentum = step["seen"]
    y, m = wd * weight, -weight_momentum
    conjugate = e / 2 * y.square().sum()
    value = loss + conjugate / wd
    inner = conjugate + huber(m, e) - (y * m).sum()
    value += lr * beta1 / ((1 - beta2) + lr * wd * (1 - beta1)) * inner
    return float(value + lr * beta1 / (1 - beta2) * huber(-bias_momentum, e))


HUBER = {"kappa": "huber", "kappa_kwargs": {"e": 0.2}}


def test_lyapunov_is_that_of_the_specification_and_falls(tmp_path):
    module = Quadratic(**HUBER)
    rows = run(tmp_path, module, epochs=40)
    assert [row["step"] for row in rows] == list(range(40))
    values = [row["lion/lyapunov"] for row in rows]
    expected = [by_hand(step, step["loss"]) for step in module.steps]
    assert values == pytest.approx(expected, rel=1e-12)
    assert all(after < before for before, after in pairwise(values))
    assert all(row["lion/violation"] == 0 for row in rows)


def test_loss_is_the_mean_over_accumulated_batches(tmp_path):
    module = Quadratic(**HUBER)
    rows = run(tmp_path, module, batch=2, epochs=3, accumulate_grad_batches=2)
    pairs = [module.steps[i : i + 2] for i in range(0, 12, 2)]
    assert pairs[0][0]["loss"] != pairs[0][1]["loss"]
    expected = [by_hand(a, (a["loss"] + b["loss"]) / 2) for a, b in pairs]
    assert [row["lion/lyapunov"] for row in rows] == pytest.approx(expected, rel=1e-12)


def test_ascent_takes_the_loss_with_the_other_sign(tmp_path):
    module = Quadratic(maximize=True, **HUBER)
    rows = run(tmp_path, module, epochs=3)
    expected = [by_hand(step, -step["loss"]) for step in module.steps]
    assert [row["lion/lyapunov"] for row in rows] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_weights_outside_the_set(tmp_path, beta1):
    """The distance shrinks by 1 - lr wd, or faster; until then the function is infinite."""
    module = Quadratic(weight=9.0, lr=0.1, betas=(beta1, 0.99))
    module.target /= 2  # inside, at most 1.5
    rows = run(tmp_path, module, epochs=80)
    assert rows[0]["lion/violation"] == pytest.approx(0.5 * 9 - 1)
    assert rows[0]["lion/saturated"] == 1, "the bias and what has no gradient must not count"
    for before, after in pairwise(rows):
        assert after["lion/violation"] <= 0.95 * before["lion/violation"] + 1e-12
    for row in rows:
        assert (row["lion/lyapunov"] == float("inf")) == (row["lion/violation"] > 1e-6)
    assert rows[-1]["lion/violation"] == 0
    assert rows[-1]["lion/lyapunov"] < 1e3


def test_saturated_is_the_share_at_the_bound(tmp_path):
    module = Quadratic(lr=0.05, weight_decay=1.0)
    rows = run(tmp_path, module, epochs=200)
    # targets -2 ... 3 in a box of radius 1
    at_bound = float((module.steps[-1]["seen"][0].abs() >= 0.99).double().mean())
    assert rows[0]["lion/saturated"] == 0
    assert rows[-1]["lion/saturated"] == at_bound > 0.4


@pytest.mark.parametrize(
    ("scope", "gauge"),
    [("tensor", lambda w: w.norm()), ("group", lambda w: (w.norm() ** 2 + 3 * 4**2).sqrt())],
)
def test_scope_of_the_constraint(tmp_path, scope, gauge):
    class Both(Quadratic):
        def configure_optimizers(self):
            with torch.no_grad():
                self.bias.fill_(4)
            return self.build([self.weight, self.bias], **self.options)

    module = Both(weight=5.0, kappa="lp", kappa_kwargs={"p": 2}, scope=scope)
    rows = run(tmp_path, module, epochs=1)
    weight = torch.full((2, 3), 5.0, dtype=torch.float64)
    assert rows[0]["lion/violation"] == pytest.approx(0.5 * float(gauge(weight)) - 1)


def test_half_precision_weights(tmp_path):
    module = Quadratic().bfloat16()
    module.target = module.target.bfloat16()
    rows = run(tmp_path, module, epochs=3)
    assert all(abs(row["lion/lyapunov"]) < 100 for row in rows)


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (3, [2, 5]), (4, [3])])
def test_rows_come_every_n_steps_whatever_the_trainer_logs(tmp_path, every, steps):
    rows = run(tmp_path, Quadratic(), every, batch=4, epochs=3, log_every_n_steps=2)
    assert [row["step"] for row in rows] == steps
    assert all(set(row) == {"epoch", "step", *NAMES} for row in rows)


def test_the_run_is_the_same_with_and_without(tmp_path):
    watched, alone = Quadratic(**HUBER), Quadratic(**HUBER)
    run(tmp_path, watched, 1, batch=2, epochs=3)
    run(tmp_path, alone, 1000, batch=2, epochs=3)
    assert torch.equal(watched.weight, alone.weight)


def test_without_a_logger_nothing_is_measured(tmp_path):
    trainer = tiny_trainer(tmp_path, [ConstraintMonitor(1)], False, max_epochs=1)
    trainer.fit(Quadratic(), DataLoader(SHIFTS))


def test_any_other_optimizer_is_refused(tmp_path):
    with pytest.raises(IncompatibleError, match="this run's optimizer is AdamW"):
        run(tmp_path, Quadratic(optimizer=torch.optim.AdamW))


def test_two_optimizers_are_refused(tmp_path):
    class Two(Quadratic):
        def configure_optimizers(self):
            self.automatic_optimization = False
            return [LionK([self.weight]), torch.optim.SGD([self.bias], lr=0.1)]

    with pytest.raises(IncompatibleError, match="optimizer is LionK and SGD"):
        run(tmp_path, Two())


def test_manual_optimization_is_refused(tmp_path):
    module = Quadratic()
    module.automatic_optimization = False
    with pytest.raises(IncompatibleError, match="Quadratic keeps to itself"):
        run(tmp_path, module)


def test_bad_interval_is_refused():
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        ConstraintMonitor(0)
