"""The per-sample memory of a run's parts in its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.distributed.sample_state import SampleState
from framework.losses.loss import Loss
from framework.runs.resume import check_fused_state, check_schedule
from framework.runs.run_checkpoint import RunCheckpoint
from framework.training.objectives_callback import ObjectivesCallback
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

N, SAVED_AT = 24, 9


def remember(state: SampleState, index: Tensor, step: int) -> None:
    """Count the visits of every sample and note the step of the latest."""
    visits = state.read(index)[:, 0] + 1
    state.write(index, torch.stack([visits, torch.full_like(visits, step)], 1))


class Remembers(Loss):
    def setup(self, num_samples: int, num_classes: int | None, device: torch.device) -> None:
        self.table = SampleState(num_samples, (2,))


class Notes(ObjectivesCallback):
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.table = SampleState(N, (2,))

    def on_objectives(self, trainer: Any, module: Any, objectives: Any, batch: Any) -> None:
        remember(self.table, batch["index"], 1000 + trainer.global_step)


class WithTables(TinyModule):
    """Has tables of its own in all layouts of a plain data module, one of them forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.1)
        self.criterion = Remembers()

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.table = SampleState(N, (2,))
        self.more = [SampleState(N, (2,)), SampleState(N, (2,), layout="exchange")]
        self.mapped = SampleState(N, (2,), layout="memmap")
        self.scratch = SampleState(N, (2,), persistent=False)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.at_start = self.tables()

    def objectives(self, batch: Any) -> Any:
        step = self.trainer.global_step
        owned = [self.table, *self.more, self.mapped, self.scratch, self.criterion.table]
        for place, state in enumerate(owned):
            remember(state, batch["index"], 100 * place + step)
        return super().objectives(batch)

    def tables(self) -> dict[str, Tensor]:
        """Every table in full; a memory map needs a barrier before it is read."""
        self.mapped.barrier()
        owned = {
            "table": self.table,
            "more-0": self.more[0],
            "more-1": self.more[1],
            "mapped": self.mapped,
            "scratch": self.scratch,
            "criterion": self.criterion.table,
            "callback": self.trainer.callbacks[0].table,
        }
        return {name: state.read(torch.arange(N)) for name, state in owned.items()}


def fit(folder: Path, ckpt_path: Path | None = None, **settings: Any) -> tuple[Any, Any]:
    """Return all tables at the start and at the end."""
    torch.set_num_threads(1)
    checkpoint = RunCheckpoint(dirpath=folder, every_n_train_steps=SAVED_AT, save_top_k=-1)
    settings = {"max_epochs": 2, "limit_val_batches": 0, **settings}
    trainer = tiny_trainer(folder, [Notes(), checkpoint], False, **settings)
    module = WithTables()
    trainer.fit(module, TinyData(), ckpt_path=ckpt_path)
    return module.at_start, module.tables()


def fit_on_rank(folder: Path, ckpt_path: Path | None = None) -> tuple[Any, Any]:
    return fit(folder, ckpt_path, devices=2, strategy="ddp")


def run(two_ranks: Any, ranks: int, folder: Path, ckpt_path: Path | None = None) -> Any:
    """Fit, and compare the ranks with one another."""
    if ranks == 1:
        return fit(folder, ckpt_path)
    zero, one = two_ranks(fit_on_rank, folder, ckpt_path)
    for here, there in zip(zero, one, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in here)
    return zero


@pytest.mark.parametrize(("ranks", "then"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_tables_go_on_where_they_were_saved(
    two_ranks: Any, tmp_path: Path, ranks: int, then: int
) -> None:
    _, whole = run(two_ranks, ranks, tmp_path)
    # two epochs of six steps
    for name, table in whole.items():
        assert (table[:, 0] == 2).all(), name
    (saved,) = tmp_path.glob(f"*step={SAVED_AT}.ckpt")
    start, end = run(two_ranks, then, tmp_path, saved)
    # the second epoch was half over
    visits = start["table"][:, 0]
    assert sorted(visits.tolist()) == [1] * (N // 2) + [2] * (N // 2)
    for name in whole.keys() - {"scratch"}:
        assert torch.equal(start[name][:, 0], visits), name
        assert torch.equal(end[name], whole[name]), name
    assert start["scratch"].count_nonzero() == 0


def test_tables_are_saved_under_the_name_of_their_owner(tmp_path: Path) -> None:
    fit(tmp_path)
    (saved,) = tmp_path.glob(f"*step={SAVED_AT}.ckpt")
    checkpoint = torch.load(saved, weights_only=True)
    assert sorted(checkpoint["sample_state"]) == [
        "Notes.table",
        "WithTables.more-0",
        "WithTables.table",
        "criterion.table",
    ]
    (shards,) = tmp_path.glob(f"{saved.name}.*.shards")
    assert sorted(path.name for path in shards.iterdir()) == [
        "WithTables.mapped-0-of-1.pt",
        "WithTables.more-1-0-of-1.pt",
    ]


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("wrong", [torch.ones(1), torch.ones(1).expand(64), torch.ones(0)])
def test_no_fused_optimizer_reads_behind_its_state(name: str, wrong: Tensor) -> None:
    parameter = torch.nn.Parameter(torch.zeros(64))
    parameter.grad = torch.ones(64)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.step()
    check_fused_state(optimizer)
    state = optimizer.state_dict()
    state["state"][0][name] = wrong
    plain = torch.optim.AdamW([parameter])
    plain.load_state_dict(state)
    with pytest.raises(ValueError, match=f"'optimizer_states' do not fit the model: '{name}' of a"):
        check_fused_state(plain)


def test_a_run_looks_at_the_state_of_a_fused_optimizer(tmp_path: Path) -> None:
    fit(tmp_path)
    (saved,) = tmp_path.glob(f"*step={SAVED_AT}.ckpt")
    checkpoint = torch.load(saved, weights_only=True)
    (state,) = checkpoint["optimizer_states"]
    state["param_groups"][0]["fused"] = True
    state["state"][0] = {"momentum_buffer": torch.ones(1)}
    torch.save(checkpoint, saved)
    with pytest.raises(ValueError, match="'optimizer_states' do not fit the model"):
        fit(tmp_path, saved)


@pytest.mark.parametrize("name", ["optimizer", "step", "get_lr", "state_dict"])
def test_no_state_takes_the_place_of_a_method_of_a_schedule(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    schedule.load_state_dict(schedule.state_dict())
    check_schedule(schedule)
    schedule.load_state_dict({name: 1})
    with pytest.raises(ValueError, match=f"'lr_schedulers' do not fit StepLR: '{name}' is none"):
        check_schedule(schedule)
