"""Values in a config that would let an accepted class do more than it is accepted for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CometLogger, WandbLogger

from framework.command.accepted_classes import NotAcceptedError
from framework.command.jsonargparse_internals import import_trusted
from framework.command.known_classes import SECTIONS, class_at

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
    for kind, arguments, place in _made(config, ""):
        if issubclass(kind, ModelCheckpoint):
            _check_file_name(arguments.get("filename"), f"{place}.filename")
        for logger, (function, harmless) in FURTHER.items():
            if kind is logger:
                own = inspect.signature(logger).parameters.keys() - {"kwargs"}
                for name in sorted(arguments.keys() - own - harmless):
                    if arguments[name] is not None:
                        _check_further(function, f"{place}.{name}")


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


def _made(config: Any, place: str) -> Iterator[tuple[type, dict[str, Any], str]]:
    """Yield the classes of a config, their arguments, and where each stands."""
    if isinstance(config, list | tuple):
        for number, entry in enumerate(config):
            yield from _made(entry, f"{place}[{number}]")
    if not hasattr(config, "items"):
        return
    # jsonargparse's namespace would walk down by itself
    entries = dict(config) if isinstance(config, dict) else vars(config)
    arguments = entries
    kind = SECTIONS.get(place)
    if "class_path" in entries:
        kind = class_at(entries["class_path"])
        parts = [entries.get(part) or {} for part in ("init_args", "dict_kwargs")]
        arguments = {}
        for part in parts:
            arguments |= part if isinstance(part, dict) else vars(part)
    if kind is not None:
        yield kind, arguments, place
    for name, value in arguments.items():
        yield from _made(value, f"{place}.{name}" if place else name)
