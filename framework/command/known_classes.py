"""The classes that a config may name, and the arguments that they take."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

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


def holders(config: Any, argument: str, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield the places of a config whose class takes an argument, as (dotted path, class).

    Args:
        config: Namespace, mapping, list or plain value of a config.
        argument: Name of the argument.
        path: Dotted path of ``config``.
    """
    if isinstance(config, list):
        for entry in config:
            yield from holders(entry, argument, path)
        return
    if not hasattr(config, "items"):
        return
    # jsonargparse's namespace would walk down by itself
    entries = dict(config) if isinstance(config, dict) else vars(config)
    kind = class_at(entries.get("class_path")) if "class_path" in entries else None
    if kind is not None and argument in accepted_arguments(kind):
        yield path, kind
    inside = entries.get("init_args") if kind is not None else config
    inside = inside if isinstance(inside, dict) else vars(inside) if inside is not None else {}
    for key, value in inside.items():
        yield from holders(value, argument, f"{path}.{key}" if path else str(key))
