"""The command line: LightningCLI with run folders, one-line errors and trusted packages."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from framework.command.accepted_classes import check_strategy
from framework.command.argument_values import check_values
from framework.command.class_paths import set_up_parsing, take_allowed
from framework.command.commands import trainer_command
from framework.command.data_arguments import DataArgumentsCLI
from framework.command.errors import describe, format_parser_error, one_line
from framework.command.help_pages import help_page
from framework.command.jsonargparse_internals import import_trusted
from framework.command.lightning_messages import choose_messages
from framework.command.path_arguments import Written, keep_below, written_arguments
from framework.command.report import relative
from framework.runs.checkpoint_argument import (
    accompanying_config,
    resolve_checkpoints,
    resolve_configs,
)
from framework.runs.config_files import option
from framework.runs.folder_choice import choose_run_folder
from framework.runs.job import restarts
from framework.runs.newest_checkpoint import newest_checkpoint
from framework.runs.preemption import PreemptionCheckpoint, let_command_handle_signals
from framework.runs.run_checkpoint import RunCheckpoint
from framework.runs.run_folder import EVALUATIONS, RunFolder, set_aside, warn_of_removal
from framework.runs.run_record import begin
from framework.runs.slurm_job import check_ranks, said_once
from framework.runs.stop_signals import Interrupted, taken_signals
from framework.runs.version_0_1 import current_arguments
from framework.utilities.console import PlainConsole
from framework.utilities.error_reason import reason_of
from framework.utilities.files import remove_parts, write_text
from framework.utilities.lightning_internals import slurm_environment
from framework.utilities.secret_values import without_secrets

CHECKPOINTS = {"checkpoint": "best", "last_checkpoint": "last"}
GO_ON = "continue with trimtab fit --ckpt_path"
FORESEEN = (
    ValueError,
    TypeError,
    OSError,
    ArithmeticError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    MisconfigurationException,
)
NOT_SAVED = (
    "config",
    "name",
    "run_folder",
    "ckpt_path",
    "weights_only",
    "verbose",
    "return_predictions",
)
"""What is said of one execution and not of the run."""


class Parser(LightningArgumentParser):
    """Answers wrong input with a one-line message and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # a setting must not be changed by half of its name
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Write the message to stderr and exit with code 2."""
        sys.stderr.write(f"trimtab: {format_parser_error(message, self, ex)}\n")
        raise SystemExit(2)


class SaveConfig(SaveConfigCallback):
    """Writes the whole config into the run folder, for every subcommand under its own name.

    What an earlier evaluation wrote there is moved away.
    """

    _written: tuple[Path, str] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet: what is refused before it starts leaves what it found."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config of a run that trains: all of its checkpoint fits."""
        begin(trainer.default_root_dir)
        self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config of a validation that is the whole command."""
        if trainer.state.fn == "validate":
            self._write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config of a test."""
        self._write(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config of a prediction."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        """Write on rank 0, over the file of an earlier part of the same run."""
        if self.already_saved or not trainer.is_global_zero:
            return
        assert trainer.state.fn is not None
        command, folder = trainer.state.fn.value, Path(trainer.default_root_dir)
        if command in EVALUATIONS and (earlier := set_aside(folder, command)):
            said = f"results of the {command} before: {relative(earlier)}"
            PlainConsole().print(said, soft_wrap=True)
        name = "config.yaml" if command == "fit" else f"config_{command}.yaml"
        config = self.config.clone()
        for key in NOT_SAVED:
            config.pop(key, None)
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        write_text(folder / name, text)
        self._written = (folder / name, text)
        for logger in trainer.loggers:
            logger.log_hyperparams(without_secrets(yaml.safe_load(text)))
        self.already_saved = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the config again where somebody removed it: no checkpoint is of use without."""
        if self._written is not None and not self._written[0].exists():
            warn_of_removal(self._written[0].parent)
            write_text(*self._written)


class TrimtabCLI(DataArgumentsCLI):
    """LightningCLI with the defaults of Trimtab; knows no domain.

    Args:
        args: Command line without the program's name.
        callbacks: Callbacks added to those of the config, unless it has one of the same class.
        accompanying: The config among the arguments, if a checkpoint brought it along and not the
            person: it may write below the run's folder only.
    """

    def __init__(
        self, args: Sequence[str], callbacks: list[Any], accompanying: Path | None = None
    ) -> None:
        self._arguments = list(args)
        self._callbacks = callbacks
        self._accompanying = accompanying
        # chosen when the config is known
        self.folder = RunFolder(Path())
        try:
            self._run(args)
        except BaseException as error:
            self.folder.clear(failed=True)
            self._note_how_to_go_on(error)
            raise
        else:
            self.folder.clear(failed=False)
        finally:
            self.folder.release()

    def _note_how_to_go_on(self, error: BaseException) -> None:
        """Add it to the error of a run that had begun to train."""
        trainer: Trainer | None = getattr(self, "trainer", None)
        if trainer is None or not trainer.is_global_zero or not isinstance(error, FORESEEN):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(one.has_trained for one in callbacks if isinstance(one, PreemptionCheckpoint)):
            return
        if (newest := newest_checkpoint(self.folder.path / "checkpoints")) is not None:
            error.add_note(f"{GO_ON} {shlex.quote(str(newest))}")

    def _run(self, args: Sequence[str]) -> None:
        super().__init__(
            trainer_command(args),
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            parser_class=Parser,
            parser_kwargs={"prog": "trimtab", "description": "Train, evaluate and predict."},
            seed_everything_default=0,
            trainer_defaults={"log_every_n_steps": 10, "enable_model_summary": False},
            auto_configure_optimizers=False,
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's place, and the best and the last checkpoint, which every run keeps."""
        parser.add_argument("--name", type=str | None, help="Name of the run; default the time.")
        parser.add_argument(
            "--run_folder",
            type=str | None,
            help="Folder of the run; default ROOT/CONFIG/NAME, with trainer.default_root_dir, or "
            "runs, as ROOT.",
        )
        for name, filename in CHECKPOINTS.items():
            # Lightning would hand it to every Trainer, also to one without checkpoints
            parser.add_class_arguments(RunCheckpoint, name, fail_untyped=False, sub_configs=True)
            parser.set_defaults(
                {
                    f"{name}.filename": filename,
                    f"{name}.enable_version_counter": False,
                    f"{name}.auto_insert_metric_name": False,
                    f"{name}.save_on_train_epoch_end": True,
                }
            )

        parser.add_class_arguments(PreemptionCheckpoint, "preemption", skip={"interrupts"})

    def change_subcommand_parser(self, subcommand: str, parser: LightningArgumentParser) -> None:
        """Turn off what Lightning prints and returns; callbacks print and write it."""
        quiet = {"validate": "verbose", "test": "verbose", "predict": "return_predictions"}
        if subcommand in quiet:
            parser.set_defaults({quiet[subcommand]: False})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, without Lightning's warning about ``sys.argv``."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder."""
        config = self.config[self.subcommand]
        check_values(config)
        # whatever a config says of it, and whatever plugin reads the checkpoint
        config.weights_only = True
        for name in CHECKPOINTS:
            # what a run of an earlier version recorded as its own place
            recorded = config[name].dirpath
            if recorded is None or option(self._arguments, f"--{name}.dirpath"):
                continue
            if Path(recorded).name == "checkpoints":
                config[name].dirpath = None
                if str(Path(recorded).parent) == str(config.trainer.default_root_dir):
                    config.trainer.default_root_dir = None
        places = {
            key: config[key]
            # the config beside a checkpoint does not say where files are written
            if self._accompanying is None or option(self._arguments, f"--{key}")
            else None
            for key in ("trainer.default_root_dir", "name", "run_folder")
        }
        self.folder = choose_run_folder(self._arguments, *places.values())
        if self._accompanying is not None:
            self._keep_writes_below(self.folder.path, self._accompanying)
        if self.subcommand == "fit" and restarts():
            self._go_on(config)

    def _go_on(self, config: Any) -> None:
        """Let a job that was started again go on by itself, from its run's newest checkpoint.

        Raises:
            SystemExit: The run was finished, with code 0.
        """
        folder = self.folder.path
        if self.folder.is_finished:
            if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                said = f"{folder} was finished before this job was started again; nothing is done"
                sys.stderr.write(f"trimtab: {said}.\n")
            raise SystemExit(0)
        given = {Path(config[name].dirpath) for name in CHECKPOINTS if config[name].dirpath}
        if self.folder.held is not None:
            # of a save that was killed
            remove_parts(folder / "checkpoints", age=0)
        newest = newest_checkpoint(folder / "checkpoints", folder, *given)
        if newest is not None:
            config.ckpt_path = str(newest)

    def _keep_writes_below(self, folder: Path, source: Path) -> None:
        """Let what a config beside a checkpoint says of places be no more than the run's own."""
        command = str(self.subcommand)
        alone = self.parser.parse_args([command, f"--config={source}"])[command]
        of_source = {one.place: one.value for one in written_arguments(alone)}

        def is_of_source(one: Written) -> bool:
            given = option(self._arguments, f"--{one.place}")
            return one.value == of_source.get(one.place) and str(one.value) not in given

        left_out = keep_below(self.config[command], folder, is_of_source)
        if left_out and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            sys.stderr.write(
                f"trimtab: {source} came along with the checkpoint and may write below {folder} "
                f"only, without {', '.join(left_out)}; --config {source} takes it as it is.\n"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add ``RunLogger``, both checkpoints and the callbacks of every run.

        What the config chooses takes the place of ours: another progress bar, a callback of the
        same class, a run without logging or checkpoints, a bare one.
        """
        config = self.setting(self.config_init, "trainer")
        bare = bool(config.get("barebones"))
        kwargs["default_root_dir"] = str(self.folder.path)
        if isinstance(config.get("strategy"), str):
            check_strategy(config.strategy, import_trusted)
        if bare:
            kwargs["log_every_n_steps"] = 0
        else:
            kwargs["logger"] = self._loggers(config.get("logger"))
        chosen = config.get("callbacks") or []
        chosen = chosen if isinstance(chosen, list) else [chosen]
        ours = [] if bare else self._own_callbacks(config)
        present = {type(callback) for callback in chosen}
        if any(isinstance(callback, ProgressBar) for callback in chosen):
            ours = [callback for callback in ours if not isinstance(callback, ProgressBar)]
        kwargs["callbacks"] = [*chosen, *(one for one in ours if type(one) not in present)]
        if not bare and config.get("enable_checkpointing") is not False:
            kwargs["callbacks"] += [self._checkpoint(name) for name in CHECKPOINTS]
            if PreemptionCheckpoint not in present:
                own: PreemptionCheckpoint = self.setting(self.config_init, "preemption")
                own.interrupts = True
                kwargs["callbacks"].append(own)
        # it saves and stops when the others have saved what was due
        kwargs["callbacks"].sort(key=lambda one: isinstance(one, PreemptionCheckpoint))
        trainer = super().instantiate_trainer(**kwargs)
        if slurm_environment(trainer) is not None:
            with said_once():
                check_ranks(trainer.world_size)
        let_command_handle_signals(trainer, str(self.subcommand))
        return trainer

    def _loggers(self, chosen: Any) -> Any:
        """Return the loggers of the config after our own, or False where there is to be none."""
        from framework.runs.csv_logger import RunLogger
        from framework.runs.dashboard_logger import DashboardLogger

        if chosen is False:
            return False
        given = [] if chosen in (None, True) else chosen if isinstance(chosen, list) else [chosen]
        own = [] if any(isinstance(part, RunLogger) for part in given) else [RunLogger()]
        for part in (loggers := [*own, *given]):
            if getattr(part, "folder", "") is None:
                part.folder = str(self.folder.path)
            if isinstance(part, DashboardLogger):
                part.command = self.subcommand
        return loggers

    def _own_callbacks(self, config: Any) -> list[Any]:
        ours = [*self._callbacks]
        if config.get("logger") is not False:
            ours.append(LearningRateMonitor())
        if config.get("enable_progress_bar") is False:
            ours = [callback for callback in ours if not isinstance(callback, ProgressBar)]
        return ours

    def _checkpoint(self, name: str) -> RunCheckpoint:
        checkpoint: RunCheckpoint = self.setting(self.config_init, name)
        if checkpoint.dirpath is None:
            checkpoint.dirpath = os.path.realpath(self.folder.path / "checkpoints")
        return checkpoint

    def after_fit(self) -> None:
        """Note that the run is finished: a job that is started again does not begin it anew."""
        self.folder.end(self.trainer.local_rank)

    def before_validate(self) -> None:
        """Say so where the weights are those at the start."""
        if self.setting(self.config_init, "ckpt_path") is None and self.trainer.is_global_zero:
            sys.stderr.write(
                "trimtab: without --ckpt_path the weights are those at the start of training.\n"
            )

    before_test = before_predict = before_validate

    def after_validate(self) -> None:
        """Refuse data that had nothing to validate on."""
        if self.trainer.limit_val_batches != 0 and not sum(self.trainer.num_val_batches):
            raise ValueError(f"{self._data} has no validation part; use `test`, or give it one.")

    def after_test(self) -> None:
        """Refuse data that had nothing to test on."""
        if self.trainer.limit_test_batches != 0 and not sum(self.trainer.num_test_batches):
            raise ValueError(f"{self._data} has no test part; use `validate`, or give it one.")

    def after_predict(self) -> None:
        """Refuse data that had nothing to predict."""
        if self.trainer.limit_predict_batches != 0 and not sum(self.trainer.num_predict_batches):
            raise ValueError(f"{self._data} has no samples to predict.")

    @property
    def _data(self) -> str:
        return type(self.datamodule).__name__


def run(args: Sequence[str], callbacks: list[Any] | None = None) -> TrimtabCLI:
    """Run one command.

    Args:
        args: Command line without the program's name.
        callbacks: Callbacks of every run, appended to the config's.

    Raises:
        SystemExit: With code 0 after a help page, 2 for a wrong command line and 128 + n after
            signal n.
    """
    choose_messages()
    arguments, allowed = take_allowed(list(args))
    set_up_parsing(allowed)
    arguments = resolve_checkpoints(arguments)
    accompanying = accompanying_config(arguments)
    arguments = current_arguments(resolve_configs(arguments))
    if (page := help_page(arguments)) is not None:
        sys.stdout.write(page)
        raise SystemExit(0)
    if accompanying is not None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        sys.stderr.write(f"trimtab: config of the checkpoint: {accompanying}\n")
    return TrimtabCLI(arguments, callbacks or [], accompanying)


@contextmanager
def error_messages() -> Iterator[None]:
    """Turn every foreseen error inside the block into a one-line message, and exit code 1.

    Warnings are one line, too. Set the environment variable ``TRIMTAB_TRACEBACK`` to see where an
    error or a warning comes from.
    """
    standard = warnings.formatwarning
    if not os.environ.get("TRIMTAB_TRACEBACK"):
        warnings.formatwarning = format_warning
    try:
        yield
    except Interrupted:
        raise
    except (SystemExit, KeyboardInterrupt) as stop:
        # Lightning turns the one into the other
        interrupt = stop.__context__ if isinstance(stop, SystemExit) else stop
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        # the checkpoint of a run that trains says what was not saved
        _say(f"{'; '.join(('stopped at once', *interrupt.args))}.")
        raise SystemExit(128 + signal.SIGINT) from None
    except FORESEEN as error:
        if (stopped := _stop_behind(error)) is not None:
            _say(
                f"an error while the run was stopped, after its state was saved: {reason_of(error)}"
            )
            raise stopped from None
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        text = describe(error)
        sys.stderr.write(f"trimtab: {text}\n")
        for note in getattr(error, "__notes__", ()):
            if note.startswith(GO_ON) and GO_ON not in text:
                sys.stderr.write(f"trimtab: {note}\n")
        raise SystemExit(1) from error
    finally:
        warnings.formatwarning = standard


def format_warning(message: Warning | str, *_: Any, **__: Any) -> str:
    """Return a warning as it is shown: the place in the code helps no one at a terminal."""
    return f"trimtab: {one_line(str(message))}\n"


def _say(text: str) -> None:
    """Write what is true of all ranks, on one of them."""
    if text and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        sys.stderr.write(f"trimtab: {text}\n")


def _stop_behind(error: BaseException | None) -> Interrupted | None:
    """Return the stop in whose course an error arose, such as that of a logger that is gone."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


def main(args: Sequence[str], callbacks: list[Any] | None = None) -> None:
    """Run one command, with one-line error messages; see ``run`` and ``error_messages``."""
    with taken_signals(), error_messages():
        run(args, callbacks)
