"""Ctrl-C and the signals of a terminal and a scheduler: saved at the batch's end, and stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from framework.command.cli import error_messages
from framework.runs.preemption import Interrupted
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.runs import in_child
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Sends(Callback):
    """Sends a signal in each of some steps, to this process or to all of its group."""

    def __init__(self, signum: int, *steps: int, group: bool = False) -> None:
        self.signum, self.steps, self.group = signum, steps, group

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        for step in self.steps:
            if trainer.global_step == step:
                send = os.killpg if self.group else os.kill
                send(os.getpgrp() if self.group else os.getpid(), self.signum)


def fit(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, **data: Any) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = RunCheckpoint(folder, "last")
    trainer = tiny_trainer(folder, [*callbacks, checkpoint], False, val_check_interval=2)
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


def test_a_stop_waits_for_the_validation_of_its_batch(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path, Sends(signal.SIGTERM, 3))
    # the fourth batch is followed by a validation, which a resumed run would not make up for
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


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
    assert told == "trimtab: saves after this batch and stops; Ctrl-C again stops at once"
    assert said == "trimtab: stopped at once; nothing was saved since the last checkpoint."


def test_what_is_to_be_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        fit(tmp_path, Sends(signal.SIGHUP, 2))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 12


def test_loading_processes_outlive_the_interrupt_of_a_terminal(tmp_path: Path) -> None:
    def work() -> None:
        os.setsid()
        fit(tmp_path, Sends(signal.SIGINT, 2, group=True), num_workers=2)

    assert in_child(work) == 130
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3
