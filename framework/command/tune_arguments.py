"""The section ``tune`` of a command line and its configs, apart from what is of the fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from framework.runs.config_files import CONFIG_FLAGS, find_config
from framework.utilities.files import write_text
from framework.utilities.yaml_files import load_yaml, read_yaml


def take_tune(args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what ``--tune.NAME VALUE`` says as a section, and the other arguments.

    Raises:
        ValueError: A value is missing, or is no YAML.
        FileNotFoundError: There is no file of the space.

    Example:
        >>> take_tune(["--tune.trials", "5", "--config=a.yaml", "--tune.metric=val/loss"])
        ({'trials': 5, 'metric': 'val/loss'}, ['--config=a.yaml'])
    """
    section: dict[str, Any] = {}
    rest: list[str] = []
    left = list(args)
    while left:
        argument = left.pop(0)
        if not argument.startswith("--tune."):
            rest.append(argument)
            continue
        name, equals, value = argument.removeprefix("--tune.").partition("=")
        if not equals:
            if not left or left[0].startswith("--"):
                raise ValueError(f"--tune.{name} needs a value.")
            value = left.pop(0)
        key, _, inner = name.partition(".")
        if key == "space" and not inner:
            section = merged([section, {"space": _space_of_file(value)}])
        elif inner:
            section = merged([section, {key: {inner: load_yaml(value, f"--tune.{name}")}}])
        else:
            section[key] = load_yaml(value, f"--tune.{name}")
    return section, rest


def _space_of_file(value: str) -> Any:
    if not Path(value).is_file():
        section = load_yaml(value, "--tune.space")
        if isinstance(section, str):
            raise FileNotFoundError(f"--tune.space {value}: there is no such file.")
        return section
    content = read_yaml(value)
    section = content.get("tune") if isinstance(content, Mapping) else None
    return section["space"] if isinstance(section, Mapping) and "space" in section else content


def without_sections(args: Sequence[str], scratch: Path) -> tuple[list[Any], list[str]]:
    """Return the sections ``tune`` of all configs, and a command line without them.

    Args:
        args: Command line.
        scratch: Folder for configs from which a section is taken.
    """
    sections: list[Any] = []
    rest: list[str] = []
    previous = ""
    for argument in args:
        flag, _, value = argument.partition("=")
        name = argument if previous in CONFIG_FLAGS else value if flag in CONFIG_FLAGS else ""
        previous = "" if previous in CONFIG_FLAGS else argument
        if name:
            path = Path(find_config(name))
            content = read_yaml(path)
            if isinstance(content, dict) and "tune" in content:
                sections.append(content.pop("tune"))
                path = scratch / f"{len(sections)}" / path.name
                write_text(path, yaml.safe_dump(content))
                if not content:
                    # nothing is left of it
                    rest = rest if argument != name else rest[:-1]
                    continue
            argument = str(path) if argument == name else f"{flag}={path}"
        rest.append(argument)
    return sections, rest


def merged(sections: Sequence[Any]) -> Any:
    """Return sections laid over one another; a setting of the space that is null is left out.

    Example:
        >>> merged([{"space": {"a": 1, "b": 2}, "trials": 5}, {"space": {"a": None}, "jobs": 2}])
        {'space': {'b': 2}, 'trials': 5, 'jobs': 2}
    """
    whole: dict[str, Any] = {}
    for section in sections:
        if not isinstance(section, Mapping):
            raise ValueError(f"tune is {section!r}: it must be a section with space, metric, mode.")
        for key, value in section.items():
            before = whole.get(key)
            if key in ("space", "slurm") and isinstance(value, Mapping):
                both = {**(before if isinstance(before, Mapping) else {}), **value}
                value = {name: one for name, one in both.items() if one is not None}
            whole[key] = value
    return whole
