"""Ctrl-C, SIGTERM and pre-emption: save at the next batch's end, and stop."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from framework.distributed.collectives import world_size
from framework.utilities.lightning_internals import (
    is_accumulating,
    slurm_checkpoint_path,
    validation_follows,
)

log = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """The run was asked to stop and has saved its state; the exit code is 128 + signal."""

    def __init__(self, signum: int, path: Path) -> None:
        super().__init__(128 + signum)
        self.path = path


class PreemptionCheckpoint(Callback):
    """Saves a checkpoint between two batches and stops, when a signal asks for it.

    Handles SIGINT (Ctrl-C, which stops at once the second time), SIGHUP and SIGTERM everywhere, and
    under SLURM also SIGUSR1, after which the job is put into the queue again. The checkpoint is
    ``last.ckpt`` beside the others; under SLURM it has the name by which Lightning finds it when
    the job starts again. Every rank stops after the same batch, whichever rank was signaled.
    """

    # asking the other ranks makes a GPU wait, so there it is done less often
    every_n_steps_on_gpu = 10
    interrupts = (signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
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
        # under nohup, or in the background of a script, these are to have no effect
        signals += [s for s in self.interrupts if signal.getsignal(s) != signal.SIG_IGN]
        if "SLURM_JOB_ID" in os.environ:
            signals.append(signal.SIGUSR1)
        for signum in signals:
            self._previous[signum] = signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        if signum == signal.SIGINT and self._speaks:
            # a handler must not write to a stream that may be in use
            os.write(
                2, b"\ntrimtab: saves after this batch and stops; Ctrl-C again stops at once\n"
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop if any rank was asked to.

        It does not stop while gradients are accumulated, nor between a batch and the validation or
        the epoch's end that belongs to it, which a resumed run would skip.
        """
        if is_accumulating(trainer) or trainer.is_last_batch or validation_follows(trainer):
            return
        signum = self._agreed(trainer)
        if signum == 0:
            return
        path = _checkpoint_path(trainer)
        trainer.save_checkpoint(path)
        if self._speaks:
            log.warning(
                "trimtab: stopped by %s after step %d; continue with trimtab fit --ckpt_path %s",
                signal.Signals(signum).name,
                trainer.global_step,
                path,
            )
        if signum == signal.SIGUSR1 and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)
        raise Interrupted(signum, path)

    def _agreed(self, trainer: Trainer) -> int:
        if world_size() == 1:
            return self.signum
        device = trainer.strategy.root_device
        if device.type == "cuda" and trainer.global_step % self.every_n_steps_on_gpu:
            return 0
        flag = torch.tensor(self.signum, device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers of the signals."""
        self._restore()

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
    if "SLURM_JOB_ID" in os.environ:
        return slurm_checkpoint_path(trainer)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath) / "last.ckpt"
    return Path(trainer.default_root_dir) / "last.ckpt"
