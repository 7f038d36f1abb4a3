"""A trained module from its run folder, for predictions in Python."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule

from framework.command.class_paths import packages_from_environment, set_up_parsing
from framework.command.cli import Parser
from framework.command.errors import format_parser_error
from framework.data.datamodule import DataModule
from framework.runs.checkpoint_argument import config_of, find_checkpoint
from framework.runs.checkpoint_io import AtomicCheckpointIO
from framework.runs.model_class import KEY, other_class
from framework.runs.version_0_1 import current_config
from framework.training.evaluation import EvaluationModule
from framework.utilities.yaml_files import read_yaml


def load(
    checkpoint: str | Path,
    allow: Sequence[str] = (),
    model: EvaluationModule | None = None,
) -> EvaluationModule:
    """Return the module of a checkpoint in evaluation mode, on the CPU.

    It is built from the config beside the checkpoint, under the command's rules of trust: only
    classes of known packages are imported, and the checkpoint is read as data. There is no Trainer,
    and no data is read. The module has the run's config as ``module.config``, a plain dict, and
    ``module.predict(inputs)`` takes raw inputs, such as images, as well as batches.

    Args:
        checkpoint: Checkpoint in a run folder, or the run folder: its best checkpoint, else its
            last.
        allow: Packages beside the trusted ones whose classes the config may name.
        model: Module that takes the state of the checkpoint; no config is read then, and the module
            predicts batches, as it knows no data.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no config beside it.
        ValueError: The config names what is not allowed or is not whole, or the checkpoint is
            damaged or that of another model.
    """
    path = find_checkpoint(Path(checkpoint))
    config = _read_config(path) if model is None else {}
    state = AtomicCheckpointIO().load_checkpoint(path, map_location="cpu")
    if model is not None:
        return _with_state(model, state, path)
    packages = [allow] if isinstance(allow, str) else allow
    set_up_parsing([*packages_from_environment(), *packages])
    module: EvaluationModule = _build(EvaluationModule, "model", _without_pretrained(config))
    module.config = config
    for callback in _own_callbacks(config):
        if hasattr(callback, "extend_module"):
            callback.extend_module(module)

    @cache
    def datamodule() -> Any:
        if "data" not in config:
            return None
        data = _build(LightningDataModule, "data", config)
        if isinstance(data, DataModule):
            data.use_facts(module.data_facts)
            data.restore_statistics(state.get(type(data).__qualname__, {}))
        return data

    module.make_datamodule = datamodule
    return _with_state(module, state, path)


def _with_state(module: EvaluationModule, state: dict[str, Any], path: Path) -> EvaluationModule:
    which = "model of its config" if module.config is not None else "given model"
    if (other := other_class(state.get(KEY, ()), type(module))) is not None:
        raise ValueError(
            f"{path} is the checkpoint of a run of {other}, and the {which} is "
            f"{type(module).__name__}."
        )
    module.on_load_checkpoint(state)
    try:
        module.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:40])
        raise ValueError(f"{path} does not fit the {which}: {reason}.") from None
    return module.eval()


def _read_config(checkpoint: Path) -> dict[str, Any]:
    path = config_of(checkpoint)
    config = current_config(read_yaml(path))
    if not isinstance(config, dict) or "model" not in config:
        raise ValueError(f"{path} is no config of a run: it has no 'model'.")
    return config


def _own_callbacks(config: dict[str, Any]) -> Iterator[Callback]:
    """Yield Trimtab's callbacks of a run, some of which give the module further parts."""
    trainer = config.get("trainer")
    found = trainer.get("callbacks") if isinstance(trainer, dict) else None
    for entry in found if isinstance(found, list) else [found]:
        if isinstance(entry, dict) and str(entry.get("class_path")).startswith("callbacks."):
            yield _build(Callback, "callback", {"callback": entry})


class _Parser(Parser):
    """Raises a one-line ``ValueError`` where the command would exit."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Say what is wrong."""
        said = format_parser_error(message, self, ex)
        raise ValueError(re.sub(r"--allow (\S+)", r"allow=['\1']", said)) from None


def _build(kind: type, name: str, config: dict[str, Any]) -> Any:
    """Return the object that a section of a config describes."""
    parser = _Parser()
    parser.add_subclass_arguments(kind, name, required=True, fail_untyped=False)
    parsed = parser.parse_object({name: config[name]})
    return parser.instantiate_classes(parsed)[name]


def _without_pretrained(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without the download of weights that the checkpoint replaces."""
    model = config["model"]
    arguments = model.get("init_args") if isinstance(model, dict) else None
    if not isinstance(arguments, dict) or not arguments.get("pretrained"):
        return config
    return {**config, "model": {**model, "init_args": {**arguments, "pretrained": False}}}
