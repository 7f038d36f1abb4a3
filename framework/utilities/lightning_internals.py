"""Private names of Lightning: every one that Trimtab touches is touched in this file."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

from jsonargparse import set_dumper
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO

from framework.utilities.tensor_archive import load_archive, read_archive

# ---- the Trainer ------------------------------------------------------------------------------


def datamodule_of(trainer: Trainer) -> Any:
    """Return the datamodule of a run, or None where it has loaders only."""
    return getattr(trainer, "datamodule", None)


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the Trainer that a module is attached to, or None; ``module.trainer`` would raise."""
    return module._trainer


def logged_step(trainer: Trainer) -> int:
    """Return the number that loggers give to the present step, also in manual optimization."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def is_accumulating(trainer: Trainer) -> bool:
    """Return whether the gradient of the latest batch waits for more before the optimizer steps."""
    return trainer.fit_loop._should_accumulate()


def micro_batch_of(trainer: Trainer | None) -> int:
    """Return the number of the present batch among those whose gradients make one step."""
    if trainer is None or trainer.accumulate_grad_batches == 1:
        return 0
    return trainer.fit_loop.epoch_loop.batch_idx % trainer.accumulate_grad_batches


def has_validated(trainer: Trainer) -> bool:
    """Return whether this run's validation has run at all."""
    return trainer.fit_loop.epoch_loop.val_loop._has_run


def measured_now(trainer: Trainer) -> frozenset[str]:
    """Return the names of the metrics that the present hook's batch, epoch or validation logged."""
    connector = trainer._logger_connector
    return frozenset() if trainer._results is None else frozenset(connector.metrics["callback"])


def validation_follows(trainer: Trainer) -> bool:
    """Return whether a validation comes between this training batch and the next; in its hooks."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    if not loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
        return False
    validation = loop.epoch_loop.val_loop
    trainer.validating = True
    validation.setup_data()
    trainer.training = True
    return not validation.skip


def stops_now(trainer: Trainer) -> bool:
    """Return whether training stops at this step, wherever in the epoch that is."""
    loop = trainer.fit_loop
    at_last_step = loop.max_steps != -1 and trainer.global_step >= loop.max_steps
    return at_last_step or (trainer.should_stop and loop._can_stop_early)


def stops_after_epoch(trainer: Trainer) -> bool:
    """Return whether the epoch that is being closed is the last one."""
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    limit = loop.max_epochs
    at_last_epoch = limit not in (None, -1) and epoch.processed >= limit
    return at_last_epoch or stops_now(trainer)


def log_closed_epoch(trainer: Trainer) -> None:
    """Hand an epoch's values to the loggers, as Lightning does after the last hook of the epoch.

    They are handed over once: Lightning then finds none.
    """
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop
    connector.on_epoch_end()
    # the values have the number of the epoch's last step
    loop._batches_that_stepped -= 1
    try:
        connector.update_train_epoch_metrics()
    finally:
        loop._batches_that_stepped += 1


@contextmanager
def place_of_the_step(trainer: Trainer) -> Iterator[None]:
    """Let a checkpoint that is written during a validation say that training stands at its step.

    A resumed run then goes on with the batch after that step, without validating again, whatever
    made Lightning validate. Batches after it, whose gradients wait for more, are trained again.
    """
    loop = trainer.fit_loop.epoch_loop
    progress: Any = loop.batch_progress
    waiting = 0
    if loop._should_accumulate():
        waiting = progress.current.ready % trainer.accumulate_grad_batches
    counters = (progress.current, progress.total)
    before = [dict(vars(counter)) for counter in counters]
    for counter in counters:
        for name in ("ready", "started", "processed", "completed"):
            setattr(counter, name, getattr(counter, name) - waiting)
        # Lightning counts a batch as completed after the hook that usually saves
        counter.completed -= 1
    steps = loop._batches_that_stepped
    if waiting:
        # the step before was counted when its batch ended
        loop._batches_that_stepped -= 1
    try:
        yield
    finally:
        for counter, values in zip(counters, before, strict=True):
            vars(counter).update(values)
        loop._batches_that_stepped = steps


def training_progress(trainer: Trainer) -> tuple[int, int]:
    """Return (epoch, batches of it already trained) of a run, also of one being resumed.

    ``trainer.current_epoch`` lags behind by one where a checkpoint was written at an epoch's end,
    hence the loop's own counters.
    """
    loop = trainer.fit_loop
    epoch: Any = loop.epoch_progress.current
    if epoch.ready <= epoch.processed:
        return epoch.processed, 0
    # a batch that an error broke off is ready, but not processed
    batches: Any = loop.epoch_loop.batch_progress.current
    position = batches.processed
    if position >= loop.max_batches:
        return epoch.processed + 1, 0
    return epoch.processed, position


def leave_closed_epoch(trainer: Trainer) -> None:
    """Let a resumed run begin the next epoch where its checkpoint closed one; at training's start.

    Under ``max_steps`` Lightning would close that epoch once more, and count it twice.
    """
    loop = trainer.fit_loop
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        for part in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
            part.reset_restart_stage()
        # the property of the fit loop would keep it, as there is a limit of steps
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def train_loader(trainer: Trainer) -> Any:
    """Return the training loader that was handed to ``fit``, or None where hooks make it."""
    source = trainer.fit_loop._data_source.instance
    return None if hasattr(source, "train_dataloader") else source


def leave_signals_alone(trainer: Trainer) -> None:
    """Let Lightning handle no signal: it would save, and end the process, at any place."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def ask_no_rank_for_sigterm(trainer: Trainer) -> None:
    """Let Lightning ask rank 0 for SIGTERM in no step, which makes a GPU wait twice."""
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def ask_for_sigterm(trainer: Trainer) -> None:
    """Let Lightning do again what ``ask_no_rank_for_sigterm`` kept it from."""
    vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)


def slurm_environment(trainer: Trainer) -> SLURMEnvironment | None:
    """Return SLURM's part of a Trainer whose processes SLURM started, else None."""
    environment = trainer._accelerator_connector.cluster_environment
    return environment if isinstance(environment, SLURMEnvironment) else None


def end_started_ranks(trainer: Trainer) -> None:
    """Send SIGTERM to the ranks that Lightning started on this machine."""
    for child in getattr(trainer.strategy.launcher, "procs", ()):
        child.terminate()


def let_ranks_end(trainer: Trainer) -> None:
    """Let the ranks that Lightning started end without its killing all others, this one too."""
    for thread in _observers(trainer):
        # it looks once more after each pause, whatever it was told in it
        thread._child_processes = []


def before_ending_ranks(trainer: Trainer, hook: Callable[[], None]) -> None:
    """Call ``hook`` before Lightning kills this process, as one of the ranks it started ended.

    It does so in a thread, and without a word.
    """
    for thread in _observers(trainer):
        kill = thread._terminate_all

        def speak_and_kill(kill: Callable[[], None] = kill) -> None:
            hook()
            kill()

        thread._terminate_all = speak_and_kill  # type: ignore[method-assign]


def _observers(trainer: Trainer) -> Iterator[_ChildProcessObserver]:
    """Yield the thread that watches the ranks of a Trainer."""
    children = getattr(trainer.strategy.launcher, "procs", None)
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver) and thread._child_processes is children:
            yield thread


def exit_code_of(trainer: Trainer, pid: int) -> int | None:
    """Return the exit code of a rank that Lightning started and that ended; None of any other."""
    for child in getattr(trainer.strategy.launcher, "procs", ()):
        if child.pid == pid:
            return child.poll()
    return None


def call_before_restoring(trainer: Trainer, hook: Callable[[Any], None]) -> None:
    """Call ``hook(path)`` on every rank before the present run's checkpoint is read, None if none.

    Lightning's own hooks are called on the ranks that have a checkpoint.
    """
    connector: Any = trainer._checkpoint_connector
    connector.__dict__.pop("_restore_modules_and_callbacks", None)
    restore_all = connector._restore_modules_and_callbacks

    def restore(path: Any = None, *args: Any) -> None:
        del connector._restore_modules_and_callbacks
        hook(path)
        restore_all(path, *args)

    connector._restore_modules_and_callbacks = restore


def call_before_saving(trainer: Trainer, hook: Callable[[dict[str, Any], Path], None]) -> None:
    """Call ``hook(checkpoint, path)`` on every rank before each checkpoint is written.

    Lightning's own hooks do not know the path. A second hook of the same Trainer is ignored.
    """
    strategy: Any = trainer.strategy
    if hasattr(strategy, "_save_without_hook"):
        return
    strategy._save_without_hook = strategy.save_checkpoint

    def save(checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        hook(checkpoint, Path(filepath))
        strategy._save_without_hook(checkpoint, filepath, storage_options)

    strategy.save_checkpoint = save


def stop_calling_before_saving(trainer: Trainer) -> None:
    """Undo ``call_before_saving``."""
    strategy: Any = trainer.strategy
    if hasattr(strategy, "_save_without_hook"):
        strategy.save_checkpoint = strategy._save_without_hook
        del strategy._save_without_hook


def change_saved_weights(
    trainer: Trainer, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """Let every checkpoint have ``change(state)`` in place of the module's state.

    Lightning calls no callback of a checkpoint that holds weights only.
    """
    strategy: Any = trainer.strategy
    save_weights_as_they_are(trainer)
    strategy._unchanged_state_dict = strategy.lightning_module_state_dict
    strategy.lightning_module_state_dict = lambda: change(strategy._unchanged_state_dict())


def save_weights_as_they_are(trainer: Trainer) -> None:
    """Undo ``change_saved_weights``."""
    strategy: Any = trainer.strategy
    if hasattr(strategy, "_unchanged_state_dict"):
        strategy.lightning_module_state_dict = strategy._unchanged_state_dict
        del strategy._unchanged_state_dict


def set_checkpoint_io(trainer: Trainer, io: CheckpointIO) -> None:
    """Let a Trainer write and read checkpoints by ``io`` where it does so by Lightning's own.

    A plugin that a person gave stays. One that hands files on, such as ``AsyncCheckpointIO``, takes
    its basis once only, and Lightning has given it one.
    """
    holder: Any = trainer.strategy
    while isinstance(holder.checkpoint_io, _WrappingCheckpointIO):
        holder = holder.checkpoint_io
    if type(holder.checkpoint_io) is TorchCheckpointIO:
        holder._checkpoint_io = io


# ---- parts that are overridden ----------------------------------------------------------------


class CheckedLoading:
    """``load_from_checkpoint`` of Lightning's classes, of checkpoints that ``load_archive`` takes.

    Lightning compares no checksums, and its message on a file that holds code is torch's advice to
    load it all the same.
    """

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Return Lightning's result, of a checkpoint of tensors and plain containers.

        Args:
            checkpoint_path: Path of the checkpoint, or a seekable binary file.
            *args: Arguments of Lightning's method.
            **options: Arguments of Lightning's method, and of the class.

        Raises:
            FileNotFoundError: There is no such checkpoint.
            ValueError: It is damaged, or holds anything else; nothing of it was run.
        """
        if isinstance(checkpoint_path, (str, os.PathLike)):
            content = load_archive(os.fspath(checkpoint_path), mmap=True)
        else:
            start = checkpoint_path.tell()
            content = read_archive(checkpoint_path, "The checkpoint")
            checkpoint_path.seek(start)
        content = content if isinstance(content, dict) else {}
        parts = content.values()
        weights = content.get("state_dict")
        for name in weights if isinstance(weights, dict) else ():
            if not isinstance(name, str):
                raise ValueError(f"{checkpoint_path}: {name!r} is no name of a parameter.")
        if any(isinstance(part, dict) and "_instantiator" in part for part in parts):
            raise ValueError(
                f"{checkpoint_path} names classes to import (its hyperparameters have an "
                "'_instantiator'), which a checkpoint may not: use trimtab.load with the config "
                "beside it, or make the module and give it to trimtab.load as `model`."
            )
        lightning: Any = super()
        try:
            loaded: Self = lightning.load_from_checkpoint(
                checkpoint_path, *args, **{**options, "weights_only": True}
            )
        except pickle.UnpicklingError:
            raise ValueError(
                f"{checkpoint_path} holds NumPy arrays, which Lightning does not load."
            ) from None
        return loaded


class QuickHooksModule(CheckedLoading, LightningModule):
    """``LightningModule`` whose hooks cost less.

    Around each of some 20 hooks a step, Lightning writes the hook's name into the module, and
    ``nn.Module`` looks at what is written as if it were a parameter.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def prepare_on_cpu(self, batch: Any) -> Any:
        """Return a batch with what is known of it before it goes to the device; for subclasses.

        Unlike Lightning's hooks it stands beside those of a datamodule.
        """
        return batch

    def _apply_batch_transfer_handler(
        self, batch: Any, device: Any = None, dataloader_idx: int = 0
    ) -> Any:
        batch = self.prepare_on_cpu(batch)
        return super()._apply_batch_transfer_handler(batch, device, dataloader_idx)


class OpenModelCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint`` with public names for the steps that a subclass changes."""

    @property
    def state_key(self) -> str:
        """Name in the checkpoint, which the file name is part of."""
        return self._generate_state_key(
            filename=self.filename,
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
        )

    def is_due_after_batch(self, trainer: Trainer) -> bool:
        """Return whether the steps taken or the time passed ask for a checkpoint."""
        if self._every_n_train_steps >= 1:
            return trainer.global_step % self._every_n_train_steps == 0
        interval, before = self._train_time_interval, self._last_time_checked
        if interval is None or before is None:
            return False
        # the clocks of the ranks differ
        return trainer.strategy.broadcast(time.monotonic() - before >= interval.total_seconds())

    def is_due_in_epoch(self, epoch: int) -> bool:
        """Return whether ``every_n_epochs`` asks for a checkpoint of an epoch, counted from 0."""
        return self._every_n_epochs >= 1 and (epoch + 1) % self._every_n_epochs == 0

    @property
    def is_switched_off(self) -> bool:
        """Whether nothing asks for a checkpoint."""
        asked = self._every_n_train_steps >= 1 or self._every_n_epochs >= 1
        return self.save_top_k == 0 or not (asked or self._train_time_interval is not None)

    def is_saved(self, trainer: Trainer) -> bool:
        """Return whether there is nothing to save, as this step was saved or no run trains."""
        return self._should_skip_saving_checkpoint(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Save what is the best by now, and the last."""
        self._last_time_checked = time.monotonic()
        values = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, values)
        self._save_last_checkpoint(trainer, values)


class OpenWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger`` with public names for what a subclass needs."""

    @property
    def start_options(self) -> dict[str, Any]:
        """Keywords of ``wandb.init``."""
        return self._wandb_init

    @property
    def run_name(self) -> str | None:
        """Name of the run, as given to the constructor."""
        return self._name

    @property
    def is_started(self) -> bool:
        """Whether there is a W&B run."""
        return self._experiment is not None

    def end_run(self, exit_code: int) -> None:
        """End the W&B run, so that the next use of ``experiment`` starts it again."""
        run, self._experiment = self._experiment, None
        if run is not None:
            run.finish(exit_code=exit_code)

    def send_checkpoints(self, checkpoint: ModelCheckpoint) -> None:
        """Send what a callback has saved; for subclasses."""

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.send_checkpoints(checkpoint_callback)


class OpenTensorBoardLogger(TensorBoardLogger):
    """Lightning's ``TensorBoardLogger`` with public names for what a subclass needs."""

    def start_again(self, purge_step: int) -> None:
        """Go on in another file, and leave out what the former ones have from a step on."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None
        self._kwargs["purge_step"] = purge_step


class SubcommandCLI(LightningCLI):
    """``LightningCLI`` that builds the parser of the requested subcommand only.

    Each parser costs as much as an import. The others know no arguments.

    Args:
        requested: Subcommand on the command line; None builds none.
        **kwargs: Keywords of ``LightningCLI``.
    """

    def __init__(self, requested: str | None, **kwargs: Any) -> None:
        self._requested = requested
        super().__init__(**kwargs)

    def change_subcommand_parser(self, subcommand: str, parser: LightningArgumentParser) -> None:
        """Change the parser of a subcommand; for subclasses."""

    def setting(self, config: Any, key: str) -> Any:
        """Return a value of the config of the subcommand that runs."""
        return self._get(config, key)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        self._subcommand_parsers = {}
        group = parser.add_subcommands()
        for name in self.subcommands():
            description = (getattr(Trainer, name).__doc__ or "").strip().split("\n")[0]
            if name == self._requested:
                built = self._prepare_subcommand_parser(Trainer, name, description=description)
                self.change_subcommand_parser(name, built)
            else:
                built = self.parser_class(description=description)
                self._subcommand_method_arguments[name] = []
            self._subcommand_parsers[name] = built
            group.add_subcommand(name, built, help=description)

    def _dump_config(self) -> None:
        # Lightning validates it here once more, which takes as long as reading it did, and has it
        # written as YAML and read again
        if not hasattr(self, "config_dump"):
            set_dumper("containers", deepcopy)
            dump: Any = self.parser.dump(
                self.config,
                format="containers",
                skip_link_targets=False,
                skip_none=False,
                skip_validation=True,
            )
            self.config_dump = dump[self.subcommand]

    def _parse_ckpt_path(self) -> None:
        # the config beside a checkpoint says how the model is built, not the checkpoint
        pass
