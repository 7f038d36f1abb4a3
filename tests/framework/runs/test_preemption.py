"""Ctrl-C and the signals of a terminal and a scheduler: saved where the run can go on, stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from framework.command.cli import error_messages
from framework.data.loader import ElasticDataLoader
from framework.runs.csv_logger import RunLogger
from framework.runs.preemption import PreemptionCheckpoint
from framework.runs.run_checkpoint import RunCheckpoint
from framework.runs.stop_signals import Interrupted
from framework.utilities.signals import STOP_SIGNALS
from tests.helpers.runs import ROOT, in_child
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


@pytest.fixture(autouse=True)
def handled_as_in_a_terminal() -> Iterator[None]:
    """A suite in the background of a shell, or under nohup, ignores signals."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


class Sends(Callback):
    """Sends a signal in each of some steps, to this process or to all of its group."""

    def __init__(self, signum: int, *steps: int, group: bool = False) -> None:
        self.signum, self.steps, self.group = signum, steps, group

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        for step in self.steps:
            if trainer.global_step == step:
                send = os.killpg if self.group else os.kill
                send(os.getpgrp() if self.group else os.getpid(), self.signum)


def fit(
    folder: Path,
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    settings: dict[str, Any] | None = None,
    **data: Any,
) -> Any:
    """Fit as the command does."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    savers = [RunCheckpoint(folder, "last"), PreemptionCheckpoint(interrupts=True)]
    options = settings or {"val_check_interval": 2}
    trainer = tiny_trainer(folder, [*callbacks, *savers], [RunLogger(str(folder))], **options)
    module = TinyModule()
    trainer.fit(module, TinyData(**data), ckpt_path=ckpt_path)
    return module.network.weight.detach()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_saves_and_stops(
    signum: signal.Signals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as stop:
        fit(tmp_path, Sends(signum, 2))
    assert stop.value.code == 128 + signum
    assert signal.getsignal(signum) == before
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    said = f"stopped by {signum.name} after step 3; continue with trimtab fit --ckpt_path {last}"
    assert said in caplog.text
    assert torch.equal(fit(tmp_path, ckpt_path=last), fit(tmp_path / "whole"))


PLACES: dict[str, dict[str, Any]] = {
    "one batch per epoch": {"limit_train_batches": 1, "max_epochs": 5},
    "one batch per epoch, no validation": {
        "limit_train_batches": 1,
        "limit_val_batches": 0,
        "max_epochs": 5,
    },
    "one batch per epoch, validated every other": {
        "limit_train_batches": 1,
        "val_check_interval": None,
        "check_val_every_n_epoch": 2,
        "max_epochs": 5,
    },
    "accumulation over the whole epoch": {
        "accumulate_grad_batches": 6,
        "val_check_interval": None,
        "max_epochs": 5,
    },
    "accumulation over more than an epoch": {
        "accumulate_grad_batches": 10,
        "val_check_interval": 3,
        "max_epochs": 5,
    },
    "a validation after each batch": {"val_check_interval": 1},
    "validations between steps": {"val_check_interval": 1, "accumulate_grad_batches": 2},
    "a limit of steps": {"limit_train_batches": 1, "max_steps": 5, "max_epochs": -1},
}


@pytest.mark.parametrize("place", PLACES)
def test_a_stop_comes_after_what_belongs_to_its_batch(place: str, tmp_path: Path) -> None:
    """The run that goes on is the one that was not stopped, in its metrics too."""
    settings = PLACES[place]
    whole = fit(tmp_path / "whole", settings=settings)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        fit(folder, Sends(signal.SIGTERM, 2), settings=settings)
    last = folder / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert torch.equal(fit(folder, ckpt_path=last, settings=settings), whole)
    metrics = [(path / "metrics.csv").read_bytes() for path in (folder, tmp_path / "whole")]
    assert metrics[0] == metrics[1]


def test_a_run_that_ends_by_itself_is_not_stopped(tmp_path: Path) -> None:
    fit(tmp_path, Sends(signal.SIGTERM, 11))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 12


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_without_the_command_nothing_is_written_unasked(
    signum: signal.Signals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signum)
    try:
        with pytest.raises(SystemExit) as stop:
            tiny_trainer(tmp_path, [Sends(signum, 2)], False).fit(TinyModule(), TinyData())
    finally:
        signal.signal(signum, before)
    assert not isinstance(stop.value, Interrupted)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert "trimtab" not in caplog.text


def test_without_the_command_only_sigterm_saves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    class Looks(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(signal.getsignal(signal.SIGINT) == before)

    callbacks = [Looks(), Sends(signal.SIGTERM, 2), RunCheckpoint(tmp_path, "last")]
    trainer = tiny_trainer(tmp_path, callbacks, False)
    with pytest.raises(Interrupted) as stop:
        trainer.fit(TinyModule(), TinyData())
    assert stop.value.code == 128 + signal.SIGTERM
    assert seen == [True] * 3
    assert f"stopped by SIGTERM after step 3; continue with ckpt_path {tmp_path}" in caplog.text


def test_the_best_checkpoint_of_a_fit_is_named_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    trainer = tiny_trainer(tmp_path, [RunCheckpoint(tmp_path, "last")], False)
    trainer.fit(TinyModule(), TinyData())
    trainer.test(ckpt_path="best", datamodule=TinyData(), verbose=False)
    assert not [w for w in recwarn if "multiple `ModelCheckpoint`" in str(w.message)]


def test_an_interrupt_outside_of_training_speaks_of_no_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop, error_messages():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "trimtab: stopped at once.\n"


def test_a_second_interrupt_stops_at_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop, error_messages():
        fit(tmp_path, Sends(signal.SIGINT, 2, 2))
    assert stop.value.code == 130
    assert not (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) == before
    told, said = [line for line in capfd.readouterr().err.splitlines() if "trimtab" in line]
    assert told == (
        "trimtab: saves and stops at the next place where the run can go on, after a step and its "
        "validation; Ctrl-C again stops at once"
    )
    assert said == "trimtab: stopped at once; nothing was saved since the last checkpoint."


def test_what_is_to_be_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(tmp_path, Sends(signal.SIGHUP, 2))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 12


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_loading_processes_outlive_a_signal_to_all(signum: signal.Signals, tmp_path: Path) -> None:
    def work() -> None:
        os.setsid()
        fit(tmp_path, Sends(signum, 2, group=True), num_workers=2)

    assert in_child(work) == 128 + signum
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_a_spawned_loading_process_is_out_of_reach_from_its_start() -> None:
    spawned = multiprocessing.get_context("spawn")
    loader = ElasticDataLoader(
        DataLoader(torch.arange(4), num_workers=1, multiprocessing_context=spawned)  # type: ignore[arg-type]
    )
    before = multiprocessing.active_children()
    batches = iter(loader)
    (worker,) = set(multiprocessing.active_children()).difference(before)
    assert worker.pid is not None
    for signum in STOP_SIGNALS:
        os.kill(worker.pid, signum)
    assert [int(batch) for batch in batches] == [0, 1, 2, 3]


LEFT_OPEN = """
import torch
from torch.utils.data import DataLoader
from framework.data.loader import ElasticDataLoader
batches = iter(ElasticDataLoader(DataLoader(torch.arange(40), num_workers=2)))
next(batches)
raise SystemExit(138)
"""


def test_loading_processes_that_are_left_do_not_change_the_exit_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ended.returncode, ended.stderr) == (138, "")
