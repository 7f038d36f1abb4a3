"""Class paths in a config are code that will run: which packages are trusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings

from framework.command.jsonargparse_internals import (
    drop_arguments_of_replaced_classes,
    read_options_from_signatures,
)
from framework.runs.version_0_1 import current_config

TRUSTED = [
    "framework",
    "modules",
    "datamodules",
    "callbacks",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
]
DENIED = [
    "*",
    "torch.hub",
    "torch.load",
    "torch.jit",
    "torch.package",
    "torch.serialization",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
]
ENVIRONMENT = "TRIMTAB_ALLOW"


def packages_from_environment() -> list[str]:
    """Return the packages that ``TRIMTAB_ALLOW`` names, separated by commas."""
    return [name for name in os.environ.get(ENVIRONMENT, "").split(",") if name]


def take_allowed(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--allow PACKAGE``, and the packages allowed.

    Those of the environment variable ``TRIMTAB_ALLOW``, separated by commas, count too. The
    current folder is then searched for them.
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
    return rest, allowed


_load_yaml = get_loader("yaml")


def set_up_parsing(allowed: Sequence[str] = ()) -> None:
    """Prepare jsonargparse for configs from anywhere; call this before a parser is used.

    Only trusted packages are imported, a changed ``class_path`` drops the old class's arguments,
    and the names of version 0.1 are understood.

    Args:
        allowed: Packages to trust besides ours.
    """
    set_parsing_settings(import_path_denylist=DENIED, import_path_allowlist=[*TRUSTED, *allowed])
    drop_arguments_of_replaced_classes()
    read_options_from_signatures()
    set_loader("yaml", lambda text: current_config(_load_yaml(text)), (yaml.YAMLError,))
