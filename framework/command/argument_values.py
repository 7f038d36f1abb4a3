"""Values in a config that would let an accepted class do more than it is accepted for."""

from __future__ import annotations

import inspect
import re
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CometLogger, WandbLogger

from framework.command.accepted_classes import NotAcceptedError
from framework.command.jsonargparse_internals import import_trusted
from framework.command.known_classes import named_classes

_FIELD = re.compile(r"\{[^][{}:!]*(:[<>]?0?\d{0,2}(\.\d{1,2})?[a-z%]?)?\}")
"""A metric in a file name, with at most its width and precision: Python's own fields also reach
the attributes of a value, and so all that is in the process, or are as long as memory."""

_ENTITY = frozenset({"entity", "group", "job_type", "notes", "tags"})
FURTHER: dict[type, tuple[str, frozenset[str]]] = {
    WandbLogger: ("wandb.init", _ENTITY),
    CometLogger: ("comet_ml.ExperimentConfig", frozenset({"name", "tags"})),
}
"""Functions that loggers hand their further arguments to, and those that a config may give: others
read files, upload code, or send the person's key elsewhere."""


def check_values(config: Any) -> None:
    """Refuse values with which a class would read files, or the process, for a config.

    Args:
        config: Parsed config of a command.

    Raises:
        ValueError: There is one.
    """
    for one in named_classes(config):
        arguments = {name: value for part in one.parts for name, value in part.items()}
        if issubclass(one.kind, ModelCheckpoint):
            _check_file_name(arguments.get("filename"), f"{one.place}.filename")
        if one.kind in FURTHER:
            function, harmless = FURTHER[one.kind]
            own = inspect.signature(one.kind).parameters.keys() - {"kwargs"}
            for name in sorted(arguments.keys() - own - harmless):
                if arguments[name] is not None:
                    _check_further(function, f"{one.place}.{name}")


def _check_file_name(name: Any, place: str) -> None:
    if isinstance(name, str) and set("{}") & set(_FIELD.sub("", name)):
        raise ValueError(
            f"{place} is {name[:80]!r}: in braces there is the name of a metric, and its width and "
            "precision where needed, such as {epoch:03d} or {val/loss:.2f}."
        )


def _check_further(function: str, place: str) -> None:
    try:
        import_trusted(function)
    except NotAcceptedError:
        package = function.partition(".")[0]
        raise ValueError(
            f"{place} goes to {function}, which may read files or send keys elsewhere; use --allow "
            f"{package} if you trust this config."
        ) from None
