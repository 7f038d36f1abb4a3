"""What the parser of configs is told: which packages a person trusts, and what may be named."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import Enum
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from jsonargparse.typing import register_type

from framework.command.accepted_classes import HINTS, find_object, is_in
from framework.command.jsonargparse_internals import (
    declare_types,
    drop_arguments_of_replaced_classes,
    import_by,
    keep_untyped_values_plain,
    read_config_files_by,
    read_options_from_signatures,
    read_whole_numbers_as_integers,
)
from framework.runs.version_0_1 import current_config
from framework.utilities.yaml_files import check_yaml, yaml_text

ENVIRONMENT = "TRIMTAB_ALLOW"


def packages_from_environment() -> list[str]:
    """Return the packages that ``TRIMTAB_ALLOW`` names, separated by commas."""
    return [name for name in os.environ.get(ENVIRONMENT, "").split(",") if name]


def take_allowed(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--allow PACKAGE``, and the packages allowed.

    Those of the environment variable ``TRIMTAB_ALLOW``, separated by commas, count too. The
    current folder is then searched for them.

    Raises:
        ValueError: ``--allow`` without a name, or a package that cannot be found.
    """
    allowed = packages_from_environment()
    rest: list[str] = []
    position = 0
    while position < len(args):
        argument = args[position]
        if argument == "--allow":
            if position + 1 == len(args) or args[position + 1].startswith("-"):
                raise ValueError("--allow takes the name of a package.")
            allowed.append(args[position + 1])
            position += 1
        elif argument.startswith("--allow="):
            allowed.append(argument.partition("=")[2])
        else:
            rest.append(argument)
        position += 1
    if allowed and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in allowed[len(packages_from_environment()) :]:
        if find_spec(name.partition(".")[0]) is None:
            raise ValueError(
                f"--allow {name}: no such package is installed or lies in the current folder."
            )
    return rest, allowed


_load_yaml = get_loader("yaml")
# a default such as the interval of Lightning's Timer
yaml.SafeDumper.add_multi_representer(
    Enum, lambda dumper, member: dumper.represent_data(member.value)
)


def _tensor(value: list[float] | float) -> torch.Tensor:
    """Return a list of numbers as what a floating loss takes."""
    return torch.tensor(value, dtype=torch.float32)


def _load_config(text: str) -> Any:
    """Return what a config, or a value on the command line, stands for."""
    try:
        check_yaml(text, "the value")
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None
    return current_config(_load_yaml(text))


def _read_config(path: str, name: str) -> str:
    try:
        return yaml_text(path, name)
    except ValueError as error:
        # jsonargparse would take it for that of a value of another type, and go on
        raise OSError(error) from None


def set_up_parsing(allowed: Sequence[str] = ()) -> None:
    """Prepare jsonargparse for configs from anywhere; call this before a parser is used.

    Only what ``accepted_classes`` knows and allowed packages are imported, a changed
    ``class_path`` drops the old class's arguments, and the names of version 0.1 are understood.

    Args:
        allowed: Packages to trust besides ours.
    """
    # whatever does not ask find_object
    set_parsing_settings(import_path_denylist=["*"])
    import_by(partial(find_object, allowed=tuple(allowed)))
    keep_untyped_values_plain(partial(is_in, packages=tuple(allowed)))
    declare_types(HINTS)
    drop_arguments_of_replaced_classes()
    read_options_from_signatures()
    read_whole_numbers_as_integers()
    # as the class weights of torch's losses
    register_type(torch.Tensor, torch.Tensor.tolist, _tensor, type_check=isinstance)
    read_config_files_by(_read_config)
    set_loader("yaml", _load_config, (yaml.YAMLError,))
