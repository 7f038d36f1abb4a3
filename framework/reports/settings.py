"""The settings of runs by name, and those in which runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# where a run writes says nothing about it
PLACES = ("trainer.default_root_dir", "checkpoint.dirpath", "last_checkpoint.dirpath")


def flat_settings(config: Any, above: str = "") -> dict[str, Any]:
    """Return the settings of a config by dotted name; objects in a list are named by their class.

    Example:
        >>> flat_settings({"seed": 0, "model": {"class_path": "a.B", "init_args": {"lr": 0.1}}})
        {'seed': 0, 'model.class_path': 'a.B', 'model.init_args.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    if isinstance(config, list) and any(isinstance(part, dict) for part in config):
        parts = [part if isinstance(part, dict) else {"class_path": part} for part in config]
        classes = [class_name(part.get("class_path", "")) for part in parts]
        flat[above] = " + ".join(classes)
        config = {
            name: part.get("init_args", {}) for name, part in zip(classes, parts, strict=True)
        }
    elif not isinstance(config, dict):
        return {above: config}
    for key, part in config.items():
        flat |= flat_settings(part, f"{above}.{key}" if above else str(key))
    return flat


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return for each config the settings in which the configs differ, by name.

    A name is the last parts of the dotted one, as many as tell it from the others.

    Args:
        configs: Settings by dotted name.

    Example:
        >>> differences([{"model.lr": 0.1, "seed": 0}, {"model.lr": 0.2, "seed": 0}])
        [{'lr': '0.1'}, {'lr': '0.2'}]
    """
    keys = list(dict.fromkeys(key for config in configs for key in config))
    missing = object()
    values = {key: [config.get(key, missing) for config in configs] for key in keys}
    keys = [k for k in keys if k not in PLACES and any(v != values[k][0] for v in values[k])]
    names = dict(zip(keys, _shortest(keys), strict=True))
    return [
        {names[key]: _shown(key, config[key]) for key in keys if key in config}
        for config in configs
    ]


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of paths, as many as tell them apart.

    Example:
        >>> short_names([Path("runs/a/1"), Path("runs/a/2")])
        ['1', '2']
    """
    parts = [path.resolve().parts for path in paths]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-number:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def class_name(path: object) -> str:
    """Return the name of a class without that of its module."""
    return str(path).rpartition(".")[2]


def _shortest(keys: Sequence[str]) -> list[str]:
    # the class of a part is named after the part
    split = [[p for p in key.split(".") if p not in ("class_path", "init_args")] for key in keys]
    names = []
    for parts in split:
        for number in range(1, len(parts) + 1):
            if sum(other[-number:] == parts[-number:] for other in split) == 1:
                break
        names.append(".".join(parts[-number:]))
    return names


def _shown(key: str, value: Any) -> str:
    return class_name(value) if key.rpartition(".")[2] == "class_path" else str(value)
