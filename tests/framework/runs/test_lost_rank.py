"""Of two ranks one is killed: the other says which, and how to go on."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, Trainer

from framework.command.cli import error_messages
from framework.runs.lost_rank import LostRank
from framework.runs.run_checkpoint import RunCheckpoint
from framework.utilities.lightning_internals import before_ending_ranks, let_ranks_end
from tests.helpers.ranks import environment_of
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class KillAt(Callback):
    """Ends this process without a farewell before a step, on one rank."""

    def __init__(self, step: int, rank: int) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)


def fit_rank(folder: Path, rank: int, port: int, kill: KillAt) -> None:
    os.environ |= environment_of(rank, port)
    torch.set_num_threads(1)
    last = RunCheckpoint(dirpath=folder / "checkpoints", filename="last", every_n_train_steps=2)
    options = {"devices": 2, "strategy": "ddp"}
    with error_messages():
        tiny_trainer(folder, [last, kill], False, **options).fit(TinyModule(), TinyData())


def run_both(folder: Path, kill: KillAt) -> tuple[list[int], list[int], list[str]]:
    """Return of two forked ranks the processes, exit codes and what each said on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids, logs = [], [folder / f"stderr{rank}" for rank in range(2)]
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            code = 0
            try:
                os.dup2(os.open(logs[rank], os.O_WRONLY | os.O_CREAT), 2)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                fit_rank(folder, rank, port, kill)
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                code = 99
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    # the killed one first, as a launcher would notice
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return pids, codes, [log.read_text() for log in logs]


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("killed", [0, 1])
def test_the_other_rank_says_which_one_ended(tmp_path: Path, killed: int, step: int) -> None:
    pids, codes, said = run_both(tmp_path, KillAt(step, killed))
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 1
    (line,) = [one for one in said[1 - killed].splitlines() if one.startswith("trimtab: ")]
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    advice = f"continue with trimtab fit --ckpt_path {checkpoint}."
    if step == 0:
        advice = "no checkpoint was written yet: start the run again."
    expected = f"trimtab: another rank ended (rank {killed}, process {pids[killed]}); {advice}"
    assert line == expected
    assert checkpoint.exists() is (step > 0)


@pytest.mark.parametrize("said_before", [False, True])
def test_it_is_said_before_lightning_kills_what_it_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], said_before: bool
) -> None:
    monkeypatch.setattr("framework.runs.lost_rank.PATIENCE", 0.1)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    main, child = (subprocess.Popen(sleeper) for _ in range(2))
    children = [child]
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=children)),
        state=SimpleNamespace(fn="test"),
    )
    observer = _ChildProcessObserver(main.pid, children, sleep_period=0)
    watch = LostRank()
    watch._processes = [(platform.node(), os.getpid()), (platform.node(), child.pid)]
    watch._has_said = said_before
    observer.start()
    before_ending_ranks(trainer, lambda: watch._speak(trainer))
    child.kill()
    observer.join(30)
    assert main.wait(30) == -signal.SIGKILL
    expected = f"trimtab: another rank ended (rank 1, process {child.pid}, killed by SIGKILL).\n"
    assert capfd.readouterr().err == ("" if said_before else expected)


def test_ranks_that_are_stopped_end_without_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's watcher looks at the others while this rank still writes what it holds."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    children, kills = [child], []
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(launcher=SimpleNamespace(procs=children))
    )
    observer = _ChildProcessObserver(os.getpid(), children)
    monkeypatch.setattr(observer, "_terminate_all", lambda: kills.append(child.pid))

    def pause(seconds: float) -> None:
        let_ranks_end(trainer)
        child.kill()
        child.wait()

    monkeypatch.setattr(time, "sleep", pause)
    observer.start()
    observer.join(30)
    assert not observer.is_alive()
    assert kills == []
