"""Opposing signals are found in any run, and no run is changed by looking."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.data import DataLoader

from callbacks import OpposingSignals
from framework.distributed.collectives import rank
from framework.objectives.errors import IncompatibleError
from framework.runs.csv_logger import RunLogger
from framework.utilities.tensor_archive import load_archive
from tests.framework.training.test_probe import Module, Published, _plain_data
from tests.helpers.ranks import TwoRanks
from tests.helpers.runs import differences
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Watched(Module):
    """The module with dropout and batch norm, trained by a seeded optimizer with momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.3, momentum=0.9)


def _fit(
    folder: Path,
    *callbacks: Callback,
    module: Any = None,
    data: Any = None,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Any:
    module = Watched() if module is None else module
    trainer = tiny_trainer(folder, [*callbacks], RunLogger(str(folder)), **settings)
    torch.manual_seed(0)
    trainer.fit(module, TinyData() if data is None else data, ckpt_path=ckpt_path)
    return module, trainer


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("signals/loss")]


def test_training_is_not_changed_by_a_bit(tmp_path: Path) -> None:
    signals = OpposingSignals(probe_size=10, k=3, every_n_steps=1, sharpness_every=2)
    with_it, one = _fit(tmp_path / "with", signals, num_sanity_val_steps=1)
    without, two = _fit(tmp_path / "without", num_sanity_val_steps=1)
    assert not differences(with_it.state_dict(), without.state_dict())
    assert not differences(one.optimizers[0].state_dict(), two.optimizers[0].state_dict())
    assert signals.tracker.latest is not None


def test_every_change_is_logged_and_the_groups_are_drawn(tmp_path: Path) -> None:
    signals = OpposingSignals(k=3, every_n_steps=1, sharpness_every=4, every_n_minutes=0)
    _fit(tmp_path, signals)
    rows = _rows(tmp_path)
    # 12 steps, of which the first has no losses before it
    assert [int(row["step"]) for row in rows] == list(range(1, 12))
    assert [i for i, row in enumerate(rows) if row["signals/sharpness"]] == [0, 4, 8]
    assert [bool(row["signals/overlap"]) for row in rows] == [False, *[True] * 10]
    for row in rows:
        assert -1 <= float(row["signals/cosine"]) <= 1
        assert 0 < float(row["signals/share"]) <= 1
    assert float(rows[-1]["signals/spikes"]) == sum(
        float(row["signals/change"]) > 0 for row in rows
    )
    assert (tmp_path / "figures" / "opposing_signals.png").is_file()
    with (tmp_path / "tables" / "opposing_signals.csv").open() as file:
        members = [*csv.DictReader(file)]
    assert [m["group"] for m in members] == [*["G+"] * 3, *["G\N{MINUS SIGN}"] * 3]
    assert {m["class"] for m in members} <= set(TinyData.class_names)
    up = [float(m["loss after"]) - float(m["loss before"]) for m in members[:3]]
    assert up == sorted(up, reverse=True)


@pytest.mark.parametrize(
    ("every", "looks"),
    [(1, range(1, 13)), (3, range(1, 13)), (5, [1, 2, 3, 6, 7, 8, 11, 12]), (20, [1, 2, 3])],
)
def test_looks_are_in_rows_of_three(every: int, looks: Any, tmp_path: Path) -> None:
    signals = OpposingSignals(k=3, every_n_steps=every)
    _fit(tmp_path, signals)
    assert list(signals.tracker.steps) == list(looks)


def test_by_default_it_looks_as_rarely_as_the_probe_is_large(tmp_path: Path) -> None:
    signals = OpposingSignals()
    module, trainer = _fit(tmp_path, signals)
    # 24 rows of the probe, 4 in a batch
    assert list(signals.tracker.steps) == [1, 2, 3]
    signals.on_train_start(trainer, module)
    assert signals.interval(trainer) == 300


class SaveAndStop(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == 7:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize("every", [1, 4])
def test_a_resumed_run_finds_the_same(every: int, tmp_path: Path) -> None:
    def signals() -> OpposingSignals:
        return OpposingSignals(k=3, every_n_steps=every, sharpness_every=3)

    whole = signals()
    _fit(tmp_path / "whole", whole)

    path = tmp_path / "cut.ckpt"
    _fit(tmp_path / "cut", signals(), SaveAndStop(path))
    resumed = signals()
    _fit(tmp_path / "cut", resumed, ckpt_path=path)
    assert not differences(whole.state_dict(), resumed.state_dict())
    assert load_archive(path)["callbacks"]["OpposingSignals"]["done"] == 7
    assert whole.state_dict()["tracked"] == {1: 11, 4: 6}[every]


class Even(TinyModule):
    """The tiny module, whose step is the same on any number of ranks."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.network.weight.copy_(torch.eye(3, 5))
            self.network.bias.zero_()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.3)


def _even(folder: Path, **settings: Any) -> dict[str, Any]:
    signals = OpposingSignals(probe_size=11, k=3, every_n_steps=1, sharpness_every=2)
    _fit(folder, signals, module=Even(), precision="64-true", limit_val_batches=0, **settings)
    return signals.state_dict()


def _even_on_ranks(folder: Path) -> dict[str, Any]:
    return _even(folder / str(rank()), strategy="ddp", devices=2)


def test_two_ranks_find_what_one_process_finds(tmp_path: Path, two_ranks: TwoRanks) -> None:
    alone = _even(tmp_path / "one")
    first, second = two_ranks(_even_on_ranks, tmp_path)
    assert not differences(first, second)
    found, expected = first["tracker"]["latest"], alone["tracker"]["latest"]
    for name in ("up", "down"):
        assert torch.equal(found.pop(name), expected.pop(name))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert first["cosine"] == pytest.approx(alone["cosine"], rel=1e-6)


def test_a_module_of_any_kind_is_served(tmp_path: Path) -> None:
    signals = OpposingSignals(k=2, every_n_steps=1)
    loader = DataLoader(_plain_data(), 8)
    module, trainer = _fit(tmp_path, signals, module=Published(), data=loader, max_epochs=1)
    assert list(signals.tracker.steps) == [1, 2, 3]
    assert (tmp_path / "figures" / "opposing_signals.png").is_file()
    rare = OpposingSignals()
    rare.on_train_start(trainer, module)
    # 24 rows of the probe, 8 in a batch
    assert rare.interval(trainer) == 150


class Coupled(TinyModule):
    provides = ("predictions",)  # type: ignore[assignment]


class Compiled(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.runs_compiled = True


@pytest.mark.parametrize(
    ("module", "signals", "said"),
    [
        (Coupled(), [OpposingSignals()], "OpposingSignals needs `per_sample`, which Coupled"),
        (Compiled(), [OpposingSignals(sharpness_every=5)], "set sharpness_every to 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    module: nn.Module, signals: list[Callback], said: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=said):
        _fit(tmp_path, *signals, module=module)


@pytest.mark.parametrize(
    "arguments",
    [{"probe_size": 1}, {"k": 0}, {"every_n_steps": 0}, {"sharpness_every": -1}],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be at least"):
        OpposingSignals(**arguments)
