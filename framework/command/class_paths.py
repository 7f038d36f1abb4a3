"""Class paths in a config are code that will run: whom we trust, and what replacing one drops."""

from __future__ import annotations

import os
import sys
from typing import Any

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


def take_allowed(args: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--allow PACKAGE``, and the packages allowed.

    Those of the environment variable ``TRIMTAB_ALLOW``, separated by commas, count too. The
    current folder is then searched for them.
    """
    allowed = [name for name in os.environ.get(ENVIRONMENT, "").split(",") if name]
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


def forget_arguments_of_replaced_classes() -> None:
    """Make a changed ``class_path`` drop every argument of the old class.

    jsonargparse keeps those that the new class accepts too, so that AdamW's weight decay would
    silently live on under SGD. It offers no setting for this.
    """
    from jsonargparse import Namespace, _typehints

    def discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
        if prev_val and "init_args" in prev_val and prev_val["class_path"] != value["class_path"]:
            prev_val["init_args"] = Namespace()

    _typehints.discard_init_args_on_class_path_change = discard
