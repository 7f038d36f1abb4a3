"""Which rank ended, where the others wait for it in vain."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from framework.distributed.collectives import rank, world_size
from framework.runs.newest_checkpoint import newest_checkpoint
from framework.utilities.lightning_internals import before_ending_ranks, exit_code_of

ANOTHER_RANK = "another rank ended"
"""Beginning of what is said."""
PATIENCE = 3.0
"""Seconds until a process whose connection was closed is gone, too."""
_LOST = re.compile(
    r"connection (?:was )?(?:closed|reset|refused)|broken pipe|remote process exited|socket closed",
    re.IGNORECASE,
)


class LostRank(Callback):
    """Says which rank ended and how to go on, where another one waits for it.

    What the library of the collectives says is of sockets. At the start each rank tells the others
    its process, so that those of the same machine can see which one is gone. Every
    ``TrainingModule`` brings this callback along.
    """

    def __init__(self) -> None:
        self._processes: list[tuple[str, int]] = []
        self._has_said = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Exchange the processes of all ranks."""
        self._processes, self._has_said = [], False
        if world_size() == 1:
            return
        found: list[Any] = [None] * world_size()
        dist.all_gather_object(found, (platform.node(), os.getpid()))
        self._processes = found
        before_ending_ranks(trainer, lambda: self._speak(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Add to an error of a collective which rank it was, as a note."""
        if self._processes and _LOST.search(str(exception)):
            self._has_said = True
            exception.add_note(self._sentence(trainer))

    def _speak(self, trainer: Trainer) -> None:
        """Say it before Lightning kills this process, which may wait on a GPU for ever."""
        if self._has_said:
            time.sleep(PATIENCE)
        else:
            sys.stderr.write(f"trimtab: {self._sentence(trainer)}\n")
            sys.stderr.flush()

    def _sentence(self, trainer: Trainer) -> str:
        ended = self._ended()
        who = "of another machine, or it cannot be told which"
        if ended is not None:
            pid = self._processes[ended][1]
            who = f"rank {ended}, process {pid}{_how(exit_code_of(trainer, pid))}"
        if trainer.state.fn != "fit":
            return f"{ANOTHER_RANK} ({who})."
        checkpoint = newest_checkpoint(*_folders(trainer))
        if checkpoint is None:
            return f"{ANOTHER_RANK} ({who}); no checkpoint was written yet: start the run again."
        return f"{ANOTHER_RANK} ({who}); continue with trimtab fit --ckpt_path {checkpoint}."

    def _ended(self) -> int | None:
        """Return the first rank of this machine whose process is gone."""
        here = platform.node()
        deadline = time.monotonic() + PATIENCE
        while True:
            for number, (host, pid) in enumerate(self._processes):
                if host == here and number != rank() and not _is_running(pid):
                    return number
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)


def _folders(trainer: Trainer) -> set[Path]:
    """Return the folders in which the checkpoints of a run lie."""
    return {
        Path(callback.dirpath)
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.dirpath
    }


def _is_running(pid: int) -> bool:
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    # a process that nobody has asked for its exit code yet is gone all the same
    return state not in ("Z", "X")


def _how(code: int | None) -> str:
    if code is None:
        return ""
    return f", killed by {signal.Signals(-code).name}" if code < 0 else f", with exit code {code}"
