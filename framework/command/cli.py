"""The command line: LightningCLI with run folders, one-sentence errors and trusted packages."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from framework.command import class_paths
from framework.command.errors import describe, sentence
from framework.command.unpacked_options import read_options_from_signatures
from framework.runs.preemption import Interrupted
from framework.runs.run_checkpoint import RunCheckpoint
from framework.runs.run_folder import RunFolder, choose_run_folder, resolve_configs

CHECKPOINTS = {"checkpoint": "best", "last_checkpoint": "last"}
FORESEEN = (
    ValueError,
    TypeError,
    OSError,
    ArithmeticError,
    ImportError,
    LookupError,
    RuntimeError,
    MisconfigurationException,
)
SUBCOMMANDS = ("fit", "validate", "test", "predict")


class Parser(LightningArgumentParser):
    """Answers wrong input with one sentence and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # a setting must not be changed by half of its name
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print what is wrong and leave."""
        sys.stderr.write(f"trimtab: {sentence(message, self)}\n")
        raise SystemExit(2)


class SaveConfig(SaveConfigCallback):
    """Writes the whole config into the run folder, for every subcommand under its own name."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, on rank 0, replacing the file of an earlier part of the same run."""
        if self.already_saved or not trainer.is_global_zero:
            return
        command = trainer.state.fn.value if trainer.state.fn is not None else "fit"
        name = "config.yaml" if command == "fit" else f"config_{command}.yaml"
        config = self.config.clone()
        for key in ("config", "ckpt_path", "weights_only", "verbose", "return_predictions"):
            config.pop(key, None)
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))
        self.already_saved = True


class TrimtabCLI(LightningCLI):
    """LightningCLI with our defaults; knows no domain.

    Args:
        args: the command line without the program's name.
        folder: where the run keeps what it writes.
        callbacks: added to those of the config, unless it has one of the same class.
    """

    def __init__(self, args: Sequence[str], folder: RunFolder, callbacks: list[Any]) -> None:
        self.folder = folder
        self._callbacks = callbacks
        self._requested = next((a for a in args if a in SUBCOMMANDS), None)
        super().__init__(
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
        """Add the best and the last checkpoint, which every run keeps."""
        for name, filename in CHECKPOINTS.items():
            parser.add_lightning_class_args(RunCheckpoint, name)
            parser.set_defaults(
                {
                    f"{name}.filename": filename,
                    f"{name}.enable_version_counter": False,
                    f"{name}.auto_insert_metric_name": False,
                    f"{name}.save_on_train_epoch_end": True,
                }
            )

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Build only the parser of the requested subcommand: each costs as much as an import."""
        self._subcommand_parsers = {}
        group = parser.add_subcommands()
        for name in SUBCOMMANDS:
            description = (getattr(Trainer, name).__doc__ or "").strip().split("\n")[0]
            if self._requested in (name, None) and self._requested is not None:
                built = self._prepare_subcommand_parser(Trainer, name, description=description)
            else:
                built = Parser(description=description)
                self._subcommand_method_arguments[name] = []
            self._subcommand_parsers[name] = built
            group.add_subcommand(name, built, help=description)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        # our callbacks print the table and write the predictions
        quiet = {"validate": "verbose", "test": "verbose", "predict": "return_predictions"}
        if subcommand in quiet:
            parser.set_defaults({quiet[subcommand]: False})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; unlike Lightning, without a warning about ``sys.argv``."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint alone: the config beside it says how the model is built."""

    def before_instantiate_classes(self) -> None:
        """Place the run folder where the config did not say otherwise."""
        config = self.config[self.subcommand]
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(self.folder.path)
        root = Path(str(config.trainer.default_root_dir))
        for name in CHECKPOINTS:
            if config[name].dirpath is None:
                config[name].dirpath = str(root / "checkpoints")
        self.folder.path = root

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add our logger unless the config names others."""
        from framework.runs.csv_logger import RunLogger

        config = self._get(self.config_init, "trainer")
        logger = config.get("logger")
        if logger in (None, True):
            logger = kwargs["logger"] = [RunLogger()]
        for part in logger if isinstance(logger, list) else [logger]:
            if getattr(part, "folder", "") is None:
                part.folder = str(self.folder.path)
        chosen = config.get("callbacks") or []
        chosen = chosen if isinstance(chosen, list) else [chosen]
        ours = [*self._callbacks, *([] if logger is False else [LearningRateMonitor()])]
        present = {type(callback) for callback in chosen}
        show_bar = config.get("enable_progress_bar") is not False
        kwargs["callbacks"] = chosen + [
            callback
            for callback in ours
            if type(callback) not in present and (show_bar or not isinstance(callback, ProgressBar))
        ]
        return super().instantiate_trainer(**kwargs)


def run(args: Sequence[str], callbacks: list[Any] | None = None) -> TrimtabCLI:
    """Run one command.

    Args:
        args: the command line without the program's name.
        callbacks: what every run shows and writes, appended to the config's callbacks.

    Raises:
        SystemExit: with code 2 for a wrong command line and 128 + n after signal n.
    """
    # Lightning's notes on hardware and cloud services, and its use of what torch has deprecated
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # what is logged at an epoch's end has been reduced over the ranks
    warnings.filterwarnings("ignore", message=r".*recommended to use .*sync_dist=True")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    arguments, allowed = class_paths.take_allowed(list(args))
    set_parsing_settings(
        import_path_denylist=class_paths.DENIED, import_path_allowlist=class_paths.TRUSTED + allowed
    )
    class_paths.forget_arguments_of_replaced_classes()
    read_options_from_signatures()
    arguments = resolve_configs(arguments)
    return TrimtabCLI(arguments, choose_run_folder(arguments), callbacks or [])


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn every foreseen error inside the block into one sentence on stderr, and exit code 1.

    Set the environment variable ``TRIMTAB_TRACEBACK`` to see where an error comes from.
    """
    try:
        yield
    except Interrupted as stop:
        sys.stderr.write(f"trimtab: stopped; continue with --ckpt_path {stop.path}.\n")
        raise
    except FORESEEN as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        sys.stderr.write(f"trimtab: {describe(error)}\n")
        raise SystemExit(1) from error


def main(args: Sequence[str], callbacks: list[Any] | None = None) -> None:
    """Run one command for a person; see ``run`` and ``one_sentence``."""
    with one_sentence():
        run(args, callbacks)
