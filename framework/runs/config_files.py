"""Where a config is found by name; imports nothing large."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from framework.utilities.nearest_names import nearest

CONFIG_FLAGS = ("--config", "-c")
ROOT = "runs"
"""Folder of all runs, where nobody names another."""


def option(args: Sequence[str], *names: str) -> list[str]:
    """Return the values of a repeatable option, in order."""
    values = []
    for position, argument in enumerate(args):
        if argument in names and position + 1 < len(args):
            values.append(args[position + 1])
        for name in names:
            if argument.startswith(f"{name}="):
                values.append(argument.partition("=")[2])
    return values


def without_option(args: Sequence[str], name: str) -> list[str]:
    """Return a command line without an option and its values."""
    return [
        argument
        for argument, before in zip(args, ["", *args], strict=False)
        if name not in (argument.partition("=")[0], before)
    ]


def name_of_config(args: Sequence[str]) -> str:
    """Return the name that a command's config gives to the folder of its runs."""
    configs = option(args, *CONFIG_FLAGS)
    if not configs:
        return "run"
    path = Path(configs[0]).resolve()
    of_run = any((path.parent / name).exists() for name in ("metrics.csv", "checkpoints"))
    return path.parent.parent.name if of_run and path.name == "config.yaml" else path.stem


def installed_configs() -> Path | None:
    """Return the folder of the configs that came with the installation."""
    spec = find_spec("configs")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) if locations else None


def config_paths() -> dict[str, Path]:
    """Return {name: path} of the configs that came with the installation, overlays last."""
    folder = installed_configs()
    paths = sorted(folder.rglob("*.yaml")) if folder is not None else []
    names = {path.relative_to(folder or path).with_suffix("").as_posix(): path for path in paths}
    return dict(sorted(names.items(), key=lambda entry: (entry[0].count("/"), entry[0])))


def find_config(name: str) -> str:
    """Return the path of a config, given by path or by name.

    ``configs/with/saf.yaml``, ``with/saf.yaml`` and ``with/saf`` all find the installed overlay
    where no such file lies in the current folder.

    Raises:
        FileNotFoundError: There is none; the message names the nearest.
    """
    if Path(name).is_file():
        return name
    folder = installed_configs()
    if folder is None:
        raise FileNotFoundError(f"There is no config {name!r}.")
    short = name.removeprefix("configs/").removesuffix(".yaml")
    found = folder / f"{short}.yaml"
    if found.is_file():
        return str(found)
    near = nearest(short, config_paths()) or "; trimtab configs lists them"
    raise FileNotFoundError(f"There is no config {name!r}{near}.")
