"""The classes that a config may name, and the arguments that they take."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from framework.command.accepted_classes import OURS, TRUSTED, is_accepted, is_ours
from framework.command.jsonargparse_internals import accepted_arguments
from framework.runs.run_checkpoint import RunCheckpoint

SLOTS: dict[str, type] = {"model": LightningModule, "data": LightningDataModule}
"""Sections of a config that name a class, and what it is."""
SECTIONS: dict[str, type] = {
    "trainer": Trainer,
    "checkpoint": RunCheckpoint,
    "last_checkpoint": RunCheckpoint,
}
"""Sections of a config that are the arguments of one class."""


def subclasses(kinds: Iterable[type]) -> dict[str, type]:
    """Return {name: class} of the imported public classes that can be made, ours first.

    Args:
        kinds: Classes; they and their subclasses are meant.
    """
    pending, found, seen = list(kinds), [], set()
    while pending:
        kind = pending.pop(0)
        if kind in seen:
            continue
        seen.add(kind)
        pending += kind.__subclasses__()
        if not inspect.isabstract(kind) and is_public(kind):
            found.append(kind)
    found.sort(key=lambda kind: (not is_ours(kind), kind.__name__))
    named: dict[str, type] = {}
    for kind in found:
        named.setdefault(kind.__name__, kind)
    return named


def is_public(kind: type) -> bool:
    """Return whether a class can be named: not those of other packages that are not accepted."""
    foreign = kind.__module__.partition(".")[0] not in TRUSTED | {"__main__"}
    return is_accepted(kind) or (foreign and not kind.__name__.startswith("_"))


def all_classes() -> dict[str, type]:
    """Return {name: class} of every imported class that a config may name, for any argument."""
    # what else the packages export, such as the alignments of a module
    ours = [sys.modules[name] for name in list(sys.modules) if name.partition(".")[0] in OURS]
    exported = [getattr(one, name) for one in ours for name in getattr(one, "__all__", ())]
    kinds = [
        kind for kind in exported if isinstance(kind, type) and not issubclass(kind, BaseException)
    ]
    return subclasses([*kinds, *SLOTS.values(), Callback, Logger, _Loss, Optimizer, LRScheduler])


def class_at(path: Any) -> type | None:
    """Return the class of a ``class_path`` that has been imported, or None."""
    module, _, name = str(path).rpartition(".")
    found = getattr(sys.modules.get(module), name, None) if module else all_classes().get(name)
    return found if isinstance(found, type) else None


@dataclass(frozen=True)
class Named:
    """A class in a config.

    Args:
        place: Dotted path of it in the config, with the number of an item in a list.
        kind: The class.
        parts: Arguments that the config gives it, as they stand there: those of its signature, and
            further ones.
    """

    place: str
    kind: type
    parts: list[dict[str, Any]]


def named_classes(config: Any, place: str = "") -> Iterator[Named]:
    """Yield every class that a config names or that a section stands for, the outer ones first.

    Args:
        config: Namespace, mapping, list or plain value of a config.
        place: Dotted path of ``config``.
    """
    if isinstance(config, list | tuple):
        for number, entry in enumerate(config):
            yield from named_classes(entry, f"{place}[{number}]")
        return
    entries = _entries(config)
    kind, parts = SECTIONS.get(place), [entries]
    if "class_path" in entries:
        kind = class_at(entries["class_path"])
        parts = [_entries(entries.get(part)) for part in ("init_args", "dict_kwargs")]
    if kind is not None:
        yield Named(place, kind, parts)
    for part in parts:
        for key, value in part.items():
            yield from named_classes(value, f"{place}.{key}" if place else str(key))


def _entries(config: Any) -> dict[str, Any]:
    # jsonargparse's namespace would walk down by itself
    if isinstance(config, Namespace):
        return vars(config)
    return config if isinstance(config, dict) else {}


def holders(config: Any, argument: str) -> Iterator[tuple[str, type]]:
    """Yield the places of a config whose class takes an argument, as (option, class).

    Args:
        config: Namespace or mapping of a config.
        argument: Name of the argument.
    """
    for one in named_classes(config):
        if one.place not in SECTIONS and argument in accepted_arguments(one.kind):
            # an option of a list is that of its items
            yield re.sub(r"\[\d+\]", "", one.place), one.kind
