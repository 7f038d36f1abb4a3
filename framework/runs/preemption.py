"""Ctrl-C, SIGTERM and pre-emption: save where the run can go on, and stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from framework.distributed.collectives import world_size
from framework.utilities.lightning_internals import (
    is_accumulating,
    log_closed_epoch,
    place_of_the_step,
    stops_after_epoch,
    stops_now,
    validation_follows,
)

log = logging.getLogger(__name__)
TOLD = (
    b"\ntrimtab: saves and stops at the next place where the run can go on, after a step and its "
    b"validation; Ctrl-C again stops at once\n"
)


class Interrupted(SystemExit):
    """The run was asked to stop and has saved its state; the exit code is 128 + signal."""

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + signum)
        self.path = path


class PreemptionCheckpoint(Checkpoint):
    """Saves a checkpoint between two steps and stops, when a signal asks for it.

    Handles SIGTERM, and under SLURM also SIGUSR1, after which the job is put into the queue again.
    It stops after an optimizer's step and the validation and the epoch's end that belong to it, on
    every rank after the same, whichever was signaled; a run that ends there ends as usual. The
    checkpoint is ``last.ckpt`` beside the others. It is the last of a Trainer's checkpoint
    callbacks, so that the others have saved what was due.

    Args:
        interrupts: Whether SIGINT (Ctrl-C, which stops at once the second time) and SIGHUP do the
            same, as in the command.

    Example:
        >>> PreemptionCheckpoint(interrupts=True).interrupts
        True
    """

    # asking the other ranks makes a GPU wait, so there it is done less often
    every_n_steps_on_gpu = 10

    def __init__(self, interrupts: bool = False) -> None:
        self.interrupts = interrupts
        self.signum = 0
        self._speaks = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Handle the signals in place of Lightning, whose handlers save in the middle of a step."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.signum = 0
        self._speaks = trainer.is_global_zero
        signals = [signal.SIGTERM]
        if self.interrupts:
            # under nohup, or in the background of a script, these are to have no effect
            both = (signal.SIGINT, signal.SIGHUP)
            signals += [s for s in both if signal.getsignal(s) != signal.SIG_IGN]
        if "SLURM_JOB_ID" in os.environ:
            signals.append(signal.SIGUSR1)
        for signum in signals:
            self._previous[signum] = signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt("nothing was saved since the last checkpoint")
        self.signum = signum
        if signum == signal.SIGINT and self._speaks:
            # a handler must not write to a stream that may be in use
            os.write(2, TOLD)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop if any rank was asked to, unless more belongs to this batch.

        A resumed run would skip the validation or the epoch's end that follows.
        """
        if is_accumulating(trainer) or trainer.is_last_batch or validation_follows(trainer):
            return
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if world_size() > 1 and on_gpu and trainer.global_step % self.every_n_steps_on_gpu:
            return
        if not stops_now(trainer) and (signum := self._agreed(trainer)):
            self._stop(trainer, signum, self._save(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if any rank was asked to, unless the epoch's end comes at once."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.is_last_batch:
            return
        if is_accumulating(trainer) or stops_now(trainer):
            return
        if signum := self._agreed(trainer):
            with place_of_the_step(trainer):
                path = self._save(trainer)
            self._stop(trainer, signum, path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if any rank was asked to and another epoch would follow."""
        if not trainer.is_last_batch or stops_after_epoch(trainer):
            return
        if signum := self._agreed(trainer):
            path = self._save(trainer)
            log_closed_epoch(trainer)
            self._stop(trainer, signum, path)

    def _agreed(self, trainer: Trainer) -> int:
        """Return the signal that this or another rank received, or 0; to be asked on every rank."""
        if world_size() == 1:
            return self.signum
        flag = torch.tensor(self.signum, device=trainer.strategy.root_device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag)

    def _save(self, trainer: Trainer) -> Path:
        path = _checkpoint_path(trainer)
        trainer.save_checkpoint(path)
        return path

    def _stop(self, trainer: Trainer, signum: int, path: Path) -> NoReturn:
        if self._speaks:
            log.warning(
                "trimtab: stopped by %s after step %d; continue with %s",
                signal.Signals(signum).name,
                trainer.global_step,
                f"trimtab fit --ckpt_path {path}" if self.interrupts else f"ckpt_path {path}",
            )
        if signum == signal.SIGUSR1 and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        raise Interrupted(signum, path)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers of the signals, and leave if the module brings it for each fit."""
        self._restore()
        if not self.interrupts:
            # Lightning warns of ckpt_path="best" where there are several checkpoint callbacks
            trainer.callbacks = [  # type: ignore[attr-defined]
                callback
                for callback in trainer.callbacks  # type: ignore[attr-defined]
                if callback is not self
            ]

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the handlers of the signals, as nothing is torn down then."""
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous = {}


def _checkpoint_path(trainer: Trainer) -> Path:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath) / "last.ckpt"
    return Path(trainer.default_root_dir) / "last.ckpt"
