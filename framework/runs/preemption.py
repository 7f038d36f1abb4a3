"""Ctrl-C, SIGTERM and pre-emption: save where the run can go on, and stop."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
import time
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from framework.distributed.collectives import world_size
from framework.runs.slurm_job import job_id, requeue
from framework.runs.stop_signals import Interrupted, StopSignals, command_signals
from framework.utilities.error_reason import reason_of
from framework.utilities.lightning_internals import (
    ask_for_sigterm,
    ask_no_rank_for_sigterm,
    end_started_ranks,
    is_accumulating,
    leave_signals_alone,
    let_ranks_end,
    log_closed_epoch,
    place_of_the_step,
    slurm_environment,
    stops_after_epoch,
    stops_now,
    validation_follows,
)

log = logging.getLogger(__name__)
TRAINS = (
    "saves and stops at the next place where the run can go on, after a step and its validation"
)
LOST = "nothing was saved since the last checkpoint"
ENDS = "ends by itself, as all was done"
TASKS = {
    "fit": "training began",
    "validate": "the validation was done",
    "test": "the test was done",
    "predict": "the predictions were done",
}
"""What a signal ends at once."""
SIGNAL_FOLLOWS = 1.0
"""Seconds in which a signal to all processes reaches this one, too."""
WANTED = 256
"""Added to a signal after which the job is queued again: that one wins among several."""


class PreemptionCheckpoint(Checkpoint):
    """Saves a checkpoint between two steps and stops, when a signal asks for it.

    In the command it does so for SIGTERM, SIGINT (Ctrl-C, which stops at once the second time),
    SIGHUP, SIGUSR1 and SIGUSR2; a ``Trainer`` of one's own has it handle SIGTERM during ``fit``,
    and under SLURM also the signal that queues the job again. It stops after an optimizer's step
    and the validation and the epoch's end that belong to it, on every rank after the same,
    whichever was signaled; a run that ends there ends as usual. The checkpoint is ``last.ckpt``
    beside the others. It is the last of a Trainer's checkpoint callbacks, so that the others have
    saved what was due.

    Args:
        interrupts: Whether a Trainer of one's own handles SIGINT and SIGHUP, too.
        requeue_signal: Signal after which a SLURM job is put back into the queue; default that of
            Lightning's ``SLURMEnvironment``, which is SIGUSR1.
        requeue: Whether a job is put back into the queue at all, unless ``SLURMEnvironment`` has
            ``auto_requeue`` off.

    Example:
        >>> PreemptionCheckpoint(requeue=False).requeue
        False
    """

    # asking the other ranks makes a GPU wait, so there it is done less often
    every_n_steps_on_gpu = 10

    def __init__(
        self,
        interrupts: bool = False,
        requeue_signal: signal.Signals | None = None,
        requeue: bool = True,
    ) -> None:
        self.interrupts = interrupts
        self.requeue_signal = requeue_signal
        self.requeue = requeue
        self.has_trained = False
        self._signals = StopSignals()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note signals from now on, in place of Lightning, which saves in the middle of a step."""
        self._signals = command_signals() or self._own_signals(trainer)
        if self._signals is command_signals():
            spare_from_loggers(trainer, self._signals)
        self._signals.note(TRAINS, LOST)
        # the ranks agree here, less often
        ask_no_rank_for_sigterm(trainer)
        try:
            signum = self._agreed(trainer)
        except RuntimeError:
            # the signal met another rank before the line above, so that it has left
            if self._signals.signum:
                self._signals.stop()
            raise
        if signum:
            self._signals.signum = signum
            self._signals.stop()

    def _own_signals(self, trainer: Trainer) -> StopSignals:
        """Handle the signals for this fit, in a program that is not the command."""
        signals = StopSignals()
        if threading.current_thread() is threading.main_thread():
            requeue_signal = self._requeue_signal(trainer)
            wanted = [signal.SIGTERM, *([signal.SIGINT, signal.SIGHUP] if self.interrupts else [])]
            signals.take(wanted)
            signals.settle(TASKS["fit"], trainer.is_global_zero, requeue_signal, lambda signum: "")
        return signals

    def _requeue_signal(self, trainer: Trainer) -> int | None:
        """Return the signal after which this job is queued again, if it is one and wants that."""
        slurm = slurm_environment(trainer)
        if job_id() is None or not self.requeue or (slurm is not None and not slurm.auto_requeue):
            return None
        of_slurm = None if slurm is None else slurm.requeue_signal
        return self.requeue_signal or of_slurm or signal.SIGUSR1

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
        self.has_trained = True
        if is_accumulating(trainer) or trainer.is_last_batch or validation_follows(trainer):
            return
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if world_size() > 1 and on_gpu and trainer.global_step % self.every_n_steps_on_gpu:
            return
        if not stops_now(trainer) and (signum := self._agreed(trainer)):
            self._stop(trainer, signum, self._save(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save and stop if any rank was asked to, unless the epoch's end comes at once."""
        if trainer.state.fn == "validate":
            self._evaluated(trainer, pl_module)
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
            try:
                log_closed_epoch(trainer)
            except Exception as error:  # whatever a logger raises, the state is saved
                log.warning("trimtab: a logger missed the epoch's values: %s", reason_of(error))
            path = self._save(trainer)
            self._stop(trainer, signum, path)

    def _agreed(self, trainer: Trainer) -> int:
        """Return the signal that this or another rank received, or 0; to be asked on every rank."""
        own = self._signals.signum
        if world_size() == 1:
            return own
        wanted = WANTED if own and own == self._signals.requeue_signal else 0
        flag = torch.tensor(own + wanted, device=trainer.strategy.root_device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag) % WANTED

    def _save(self, trainer: Trainer) -> Path:
        path = _checkpoint_path(trainer)
        trainer.save_checkpoint(path, weights_only=False)
        return path

    def _stop(self, trainer: Trainer, signum: int, path: Path) -> NoReturn:
        self._signals.leave()
        let_ranks_end(trainer)
        _end_logging(trainer)
        if self._signals.speaks:
            done = ""
            if signum == self._signals.requeue_signal:
                done = f"; {requeue()}"
            in_command = self.interrupts or command_signals() is not None
            option = "trimtab fit --ckpt_path" if in_command else "ckpt_path"
            log.warning(
                "trimtab: stopped by %s after step %d%s; continue with %s %s",
                signal.Signals(signum).name,
                trainer.global_step,
                done,
                option,
                shlex.quote(str(path)),
            )
        raise Interrupted(signum, path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the run end by itself, whatever comes now."""
        self._signals.note(ENDS)

    def _evaluated(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let an evaluation end by itself, whatever comes now."""
        if (signals := command_signals()) is not None:
            signals.note(ENDS)

    on_test_end = on_predict_end = _evaluated

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers of the signals, and leave if the module brings it for each fit."""
        self._restore()
        ask_for_sigterm(trainer)
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
        self._signals.leave()
        self._restore()
        ask_for_sigterm(trainer)

    def _restore(self) -> None:
        if self._signals is not command_signals():
            self._signals.restore()


def _end_logging(trainer: Trainer) -> None:
    """Let every logger write what it holds: a job that is queued again is killed at once."""
    for logger in trainer.loggers:
        try:
            logger.finalize("failed")
        except Exception as error:  # whatever a logger raises, the state is saved
            log.warning("trimtab: a logger missed the last values: %s", reason_of(error))


def let_command_handle_signals(trainer: Trainer, task: str) -> None:
    """Let the command's handlers do for a Trainer what Lightning's do.

    Args:
        trainer: The command's Trainer.
        task: What it is about to do, ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

    Raises:
        Interrupted: A signal came before.
    """
    signals = command_signals()
    if signals is None:
        return
    leave_signals_alone(trainer)
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    own = [one for one in callbacks if isinstance(one, PreemptionCheckpoint)]
    requeue_signal = (own or [PreemptionCheckpoint()])[0]._requeue_signal(trainer)

    def leave(signum: int) -> str:
        let_ranks_end(trainer)
        end_started_ranks(trainer)
        return requeue() if trainer.is_global_zero and signum == requeue_signal else ""

    signals.settle(TASKS[task], trainer.is_global_zero, requeue_signal, leave)


def spare_from_loggers(trainer: Trainer, signals: StopSignals) -> None:
    """Let a run that is asked to stop save its state, where a logger's service ended already.

    Some schedulers signal every process of a job, such as that by which W&B writes.
    """
    for logger in trainer.loggers:
        for name in ("log_metrics", "save", "after_save_checkpoint", "finalize"):
            setattr(logger, name, _spared(getattr(logger, name), signals))


def _spared(method: Callable[..., Any], signals: StopSignals) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except Exception as error:
            # the service may have met the signal a moment before this process
            time.sleep(0 if signals.signum else SIGNAL_FOLLOWS)
            if not signals.signum:
                raise
            _say_lost(reason_of(error))
            return None

    return call


@cache
def _say_lost(reason: str) -> None:
    """Say once what a logger said as it was stopped."""
    log.warning("trimtab: a logger ended with the signal and lost what came after: %s", reason)


def _checkpoint_path(trainer: Trainer) -> Path:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath) / "last.ckpt"
    return Path(trainer.default_root_dir) / "last.ckpt"
