"""What a checkpoint and a config on a command line stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from framework.runs.config_files import (
    CONFIG_FLAGS,
    ROOT,
    find_config,
    name_of_config,
    option,
    without_option,
)
from framework.runs.newest_checkpoint import newest_checkpoint

OF_SLURM = re.compile(r"hpc_ckpt_\d+\.ckpt")
"""What former versions wrote directly into a run folder before SLURM started a job again."""


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Return the arguments with every config as a path.

    Without ``--config``, a checkpoint inside a run folder brings that run's config along.

    Raises:
        FileNotFoundError: No such config or checkpoint, or no config beside the checkpoint.
    """
    resolved: list[str] = []
    previous = ""
    for argument in args:
        flag, equals, value = argument.partition("=")
        if previous in CONFIG_FLAGS:
            argument = find_config(argument)
        elif flag in CONFIG_FLAGS and equals:
            argument = f"{flag}={find_config(value)}"
        resolved.append(argument)
        previous = argument
    if (config := accompanying_config(resolved)) is not None:
        resolved[1:1] = ["--config", str(config)]
    return resolved


def accompanying_config(args: Sequence[str]) -> Path | None:
    """Return the config that a checkpoint brings along, where the command line names none.

    Raises:
        FileNotFoundError: No such checkpoint, or no config beside it.
        ValueError: The config is a link out of the run folder.
    """
    checkpoints = option(args, "--ckpt_path")
    if not checkpoints or "://" in checkpoints[-1] or option(args, *CONFIG_FLAGS):
        return None
    return config_of(Path(checkpoints[-1]))


def resolve_checkpoints(args: Sequence[str]) -> list[str]:
    """Return the arguments with a run folder in the place of a checkpoint as one of its files.

    It is the newest checkpoint where training goes on, else the best. ``last`` and ``best`` stand
    for the newest and the best one in the folder that ``--run_folder`` or ``--name`` names. In
    ``fit`` the former stands for none where there is none yet, so that the same command begins a
    run and goes on with it.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
        ValueError: ``last`` or ``best`` without the name of a run.
    """
    find = find_newest if "fit" in args else find_checkpoint
    resolved: list[str] = []
    for argument in _resolve_word(args):
        flag, equals, value = argument.partition("=")
        if resolved and resolved[-1] == "--ckpt_path":
            argument = str(find(Path(argument)))
        elif flag == "--ckpt_path" and equals:
            argument = f"{flag}={find(Path(value))}"
        resolved.append(argument)
    return resolved


def _resolve_word(args: Sequence[str]) -> list[str]:
    """Return the arguments with ``last`` or ``best`` as the file of the run that they name."""
    word = (option(args, "--ckpt_path") or [""])[-1]
    if word not in ("last", "best") or Path(word).exists():
        return list(args)
    folder = _named_run(args, word)
    if not folder.is_dir() and not (word == "last" and "fit" in args):
        raise FileNotFoundError(f"There is no checkpoint in {folder}, as there is no such folder.")
    kept = without_option(args, "--ckpt_path")
    found: Path | None
    if word == "best":
        found = find_checkpoint(folder)
    elif "fit" in args:
        found = newest_checkpoint(folder / "checkpoints", folder)
    else:
        found = find_newest(folder)
    return kept if found is None else [*kept, "--ckpt_path", str(found)]


def _named_run(args: Sequence[str], word: str) -> Path:
    """Return the folder that ``--run_folder`` or ``--name`` names."""
    if exact := option(args, "--run_folder"):
        return Path(exact[-1]).expanduser()
    root = option(args, "--trainer.default_root_dir") or [ROOT]
    parent = Path(root[-1]).expanduser() / name_of_config(args)
    if name := option(args, "--name"):
        return parent / name[-1]
    checkpoints = parent.glob("*/checkpoints/*.ckpt")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    known = f"; the newest run is --ckpt_path {newest.parent.parent}" if newest else ""
    raise ValueError(
        f"--ckpt_path {word} is that of a run which --name or --run_folder names, and neither is "
        f"given{known}."
    )


def find_checkpoint(path: Path) -> Path:
    """Return the best checkpoint of a run folder, else the last; what is no folder comes back.

    Args:
        path: Checkpoint, run folder, or the folder of a run's checkpoints.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    if not path.is_dir():
        return path
    for name in ("best", "last"):
        for found in (path / "checkpoints" / f"{name}.ckpt", path / f"{name}.ckpt"):
            if found.is_file():
                return found
    raise FileNotFoundError(
        f"There is no checkpoint in {path}: name a run folder, which holds checkpoints/best.ckpt "
        "or checkpoints/last.ckpt, or a file."
    )


def find_newest(path: Path) -> Path:
    """Return the checkpoint that training goes on from; what is no folder comes back as it is.

    Args:
        path: Checkpoint, run folder, or the folder of a run's checkpoints.

    Raises:
        FileNotFoundError: A folder without such a checkpoint.
    """
    if not path.is_dir():
        return path
    newest = newest_checkpoint(path / "checkpoints", path)
    if newest is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {path} from which training can go on: name a run folder, "
            "which holds checkpoints/last.ckpt, or a file."
        )
    return newest


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run folder that a checkpoint lies in, or None where it lies in none."""
    path = Path(checkpoint)
    if path.parent.name == "checkpoints":
        return path.parent.parent
    return path.parent if OF_SLURM.fullmatch(path.name) else None


def config_of(checkpoint: Path) -> Path:
    """Return the config beside a checkpoint, which says how its model is built.

    Raises:
        FileNotFoundError: There is no such checkpoint, or no config beside it.
        ValueError: The config is a link out of the run folder.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"There is no checkpoint at {checkpoint}.")
    config = (run_of(checkpoint) or checkpoint.parent) / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"{checkpoint} lies in no run folder: there is no {config}, which says how its model "
            "is built; the command takes one by --config."
        )
    if config.is_symlink() and not config.resolve().is_relative_to(config.parent.resolve()):
        raise ValueError(
            f"{config} is a link to {config.resolve()}, which lies out of the run folder; name the "
            "config that you mean by --config."
        )
    return config
