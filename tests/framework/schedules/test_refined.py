"""A schedule made of another run's norms: which norm, what is told, and how it is restored."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, NAdam, Optimizer

from framework.optim import LionK
from framework.schedules import GradientNorms, RefinedLR, refine_schedule, save_gradient_norms
from framework.schedules.optimizer_kinds import kind_of
from framework.schedules.steps import total_steps_from
from tests.helpers.runs import ROOT
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

L2 = torch.tensor([4.0, 2.0, 1.0, 1.0, 2.0])
L1 = torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    record = GradientNorms({"l2": L2, "l1": L1}, "SGD", 5)
    save_gradient_norms(tmp_path / "gradient_norms.csv", record)
    return tmp_path


def build(norms: Any = None, optimizer: Any = SGD, lr: float = 2.0, **options: Any) -> RefinedLR:
    made: Optimizer = optimizer([nn.Parameter(torch.zeros(1))], lr=lr)
    return RefinedLR(made, None if norms is None else str(norms), **{"total_steps": 5, **options})


def rates(schedule: RefinedLR, steps: int) -> list[Any]:
    values: list[Any] = []
    for _ in range(steps):
        values.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return values


def test_without_norms_it_is_linear_and_0_in_the_last_step() -> None:
    assert rates(build(), 7) == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0, 0.0]
    assert rates(build(total_steps=1), 2) == [0.0, 0.0]


@pytest.mark.parametrize("name", [".", "gradient_norms.csv"])
def test_the_optimizer_says_which_norm_is_meant(recorded: Path, name: str) -> None:
    path = recorded / name
    assert torch.equal(build(path).schedule, refine_schedule(L2, 5, "sgd"))
    adam = refine_schedule(L1, 5, "adam")
    with pytest.warns(UserWarning, match="was recorded with SGD, and this run has AdamW: the norm"):
        assert torch.equal(build(path, AdamW).schedule, adam)
    assert torch.equal(build(path, kind="adam").schedule, adam)
    assert torch.equal(build(path, kind=1.0).schedule, refine_schedule(L2, 5, 1.0))
    assert rates(build(path), 6) == [*(2 * refine_schedule(L2, 5)).tolist(), 0.0]


def test_kinds_of_optimizers(recorded: Path) -> None:
    weights = [nn.Parameter(torch.zeros(1))]
    assert [kind_of(o(weights, lr=1.0)) for o in (SGD, NAdam, LionK)] == ["sgd", "adam", "adam"]
    assert kind_of(LBFGS(weights)) is None

    class MyAdam(AdamW):
        pass

    assert kind_of(MyAdam(weights)) == "adam"
    with pytest.raises(ValueError, match="does not know which norm LBFGS steps by: set kind to"):
        build(recorded, LBFGS)
    assert torch.equal(build(recorded, LBFGS, kind="sgd").schedule, refine_schedule(L2, 5))


def test_options_are_those_of_the_function(recorded: Path) -> None:
    options: dict[str, Any] = {"smoothing": 0.6, "ignore_first": 0.2, "floor": 0.9}
    expected = refine_schedule(L2, 5, "sgd", **options)
    assert torch.equal(build(recorded, **options).schedule, expected)
    assert not torch.equal(expected, refine_schedule(L2, 5, "sgd"))


def test_another_length_is_told(recorded: Path) -> None:
    with pytest.warns(UserWarning, match="holds the norms of 5 steps, and this run has 8: they ar"):
        schedule = build(recorded, total_steps=8)
    assert torch.equal(schedule.schedule, refine_schedule(L2, 8, "sgd"))
    save_gradient_norms(recorded / "short.csv", GradientNorms({"l2": L2}, "SGD", 9))
    with pytest.warns(UserWarning, match="holds the norms of 5 of 9 steps, and this run has 8"):
        build(recorded / "short.csv", total_steps=8)


def test_a_missing_norm_is_told(recorded: Path) -> None:
    save_gradient_norms(recorded / "l1.csv", GradientNorms({"l1": L1}, "SGD", 5))
    with pytest.raises(ValueError, match="holds the norms l1 only, and 'sgd' needs l2"):
        build(recorded / "l1.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps must be"),
        ({"kind": "lion"}, "kind must be one of sgd, adam"),
        ({"smoothing": 2.0}, "smoothing must lie"),
        ({"floor": -1.0}, "floor must be"),
        ({"ignore_first": 1.0}, "ignore_first must lie"),
    ],
)
def test_a_wrong_argument_is_named_in_the_first_run_too(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def restored(schedule: RefinedLR) -> Any:
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_state_holds_the_schedule(recorded: Path) -> None:
    whole, first, second = build(recorded), build(recorded), build()
    expected = rates(whole, 6)
    assert rates(first, 2) == expected[:2]
    second.load_state_dict(restored(first))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 4) == expected[2:]


def test_a_longer_run_stretches_the_schedule_of_its_checkpoint(recorded: Path) -> None:
    longer = build(total_steps=9)
    with pytest.warns(UserWarning, match="checkpoint is for 5 steps, and this run has 9: it is st"):
        longer.load_state_dict(restored(build(recorded)))
    short = refine_schedule(L2, 5)
    assert longer.schedule[::2].tolist() == pytest.approx(short.tolist(), rel=1e-12)
    assert longer.schedule[1] == pytest.approx(float(short[:2].mean()))
    assert longer.schedule[-1] == 0


def test_a_run_that_goes_on_needs_no_file(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=5, limit_train_batches=1.0, ckpt_path="last.ckpt"
    )
    missing = tmp_path / "gone"
    with total_steps_from(trainer):
        schedule, lost = (build(missing, total_steps="auto") for _ in range(2))
    schedule.load_state_dict(restored(build()))
    assert rates(schedule, 2) == [2.0, 1.5]
    # but it does not take steps by a schedule that nobody asked for
    lost.optimizer.step()
    with pytest.raises(FileNotFoundError, match="gone is not there"):
        lost.step()
    trainer.ckpt_path = None
    with total_steps_from(trainer), pytest.raises(FileNotFoundError, match="gone is not there"):
        build(missing, total_steps="auto")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_real_run_goes_on_where_the_first_is_gone(recorded: Path, tmp_path: Path) -> None:
    def fit(folder: str, callbacks: list[Any], ckpt_path: Path | None = None) -> TinyModule:
        torch.manual_seed(0)
        module = TinyModule()
        module.optimizer = partial(SGD, lr=0.5)  # type: ignore[assignment]
        module.lr_scheduler = partial(RefinedLR, norms=str(recorded))
        trainer = tiny_trainer(tmp_path / folder, callbacks, False)
        trainer.fit(module, TinyData(), ckpt_path=ckpt_path, weights_only=True)
        return module

    saving = ModelCheckpoint(tmp_path / "saved", "{step}", save_top_k=-1)
    with pytest.warns(UserWarning, match="norms of 5 steps, and this run has 12"):
        whole = fit("whole", [saving])
    (recorded / "gradient_norms.csv").unlink()
    resumed = fit("resumed", [], tmp_path / "saved" / "step=6.ckpt")
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == 0
    with pytest.raises(FileNotFoundError, match=r"gradient_norms\.csv is not there"):
        fit("another", [])


def test_every_group_and_a_tensor_as_a_rate_are_scheduled(recorded: Path) -> None:
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": weights[:1], "lr": 0.5}, {"params": weights[1:]}]
    schedule = RefinedLR(SGD(groups, lr=torch.tensor(1.0)), str(recorded), total_steps=5)
    schedule.optimizer.step()
    schedule.step()
    assert [float(lr) for lr in schedule.get_last_lr()] == pytest.approx([0.225, 0.45])


def test_the_loop_of_the_page_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "refined_schedules.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    torch.manual_seed(0)
    exec(code, {"__name__": "page"})
    assert len((tmp_path / "norms.csv").read_text().splitlines()) == 4 + 20
