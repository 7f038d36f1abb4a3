"""Which classes a config can reach, from every slot on and through the arguments of what is there.

    python -m tests.helpers.reachable_classes

writes the list anew that ``test_accepted_classes.py`` compares with.
"""

from __future__ import annotations

import collections.abc
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin

import trimtab
from framework.command.accepted_classes import ACCEPTED, is_accepted, is_ours
from framework.command.class_paths import set_up_parsing
from framework.command.jsonargparse_internals import Argument, arguments_of
from framework.command.known_classes import SECTIONS, SLOTS, all_classes
from framework.command.type_names import classes_in

LIST = Path(__file__).parents[1] / "framework" / "command" / "reachable_classes.txt"
PACKAGES = ("torch", "torchvision", "lightning", "timm", "torchmetrics", "wandb")
_PLACES = ("path", "dir", "file", "folder", "url", "uri", "root")
HEAD = """\
# The classes that a config can name without --allow, with the arguments of each that could take
# more than plain values: functions (which come from allowed packages only), values of any type
# (plain ones only), and names of files, folders and services. Written by
#     python -m tests.helpers.reachable_classes
"""


def versions() -> str:
    """Return the versions of the packages whose classes are listed."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return f"# {', '.join(found)}\n"


@cache
def accepted_elsewhere() -> dict[type, str]:
    """Return {class: its shortest path} of every accepted class of other packages."""
    found: dict[type, set[str]] = {}
    for root in {root for one in ACCEPTED for root in one.modules}:
        for module in _modules(import_module(root)):
            for name, kind in list(vars(module).items()):
                if not isinstance(kind, type) or name != kind.__name__ or is_ours(kind):
                    continue
                if is_accepted(kind):
                    found.setdefault(kind, set()).add(f"{module.__name__}.{name}")
    return {kind: min(paths, key=lambda path: (len(path), path)) for kind, paths in found.items()}


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for info in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if info.name.startswith("_"):
            continue
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                inside = import_module(f"{package.__name__}.{info.name}")
        except ImportError:  # of a package that is not installed
            continue
        yield from _modules(inside)


@cache
def reachable() -> dict[type, list[Argument]]:
    """Return {class: arguments} of everything that a config can make."""
    known = [*all_classes().values(), *accepted_elsewhere()]
    known = [kind for kind in known if is_accepted(kind) and not isabstract(kind)]
    hints: list[Any] = [*SLOTS.values()]
    hints += [argument.hint for kind in SECTIONS.values() for argument in arguments_of(kind)]
    found: dict[type, list[Argument]] = {}
    seen: set[Any] = set()
    while hints:
        hint = hints.pop()
        if str(hint) in seen:
            continue
        seen.add(str(hint))
        kinds = classes_in(hint)
        for kind in known:
            called = takes_functions(hint) and any("__call__" in vars(k) for k in kind.__mro__)
            if kind not in found and (issubclass(kind, kinds) or called):
                found[kind] = arguments_of(kind)
                hints += [argument.hint for argument in found[kind]]
    return found


def takes_functions(hint: Any) -> bool:
    """Return whether a type takes a function, and not only one that returns an object."""
    if hint is collections.abc.Callable or get_origin(hint) is collections.abc.Callable:
        return not classes_in(hint)
    return any(takes_functions(part) for part in get_args(hint))


def takes_anything(hint: Any) -> bool:
    """Return whether an argument has no type, or one that lets any value in."""
    return hint in (None, Any, object) or any(
        part in (Any, object) or takes_anything(part)
        for part in get_args(hint)
        if part is not type(None) and not isinstance(part, list)
    )


def lines() -> list[str]:
    """Return the list."""
    paths = accepted_elsewhere()
    written = []
    for kind, arguments in reachable().items():
        path = paths.get(kind) or f"{kind.__module__}.{kind.__qualname__}"
        parts = {
            "functions": [one.name for one in arguments if takes_functions(one.hint)],
            "anything": [one.name for one in arguments if takes_anything(one.hint)],
            "places": [one.name for one in arguments if any(p in one.name for p in _PLACES)],
        }
        notes = [f"{name}: {' '.join(found)}" for name, found in parts.items() if found]
        written.append("  ".join([path, *notes]))
    return sorted(written)


if __name__ == "__main__":
    trimtab.import_configurable_classes()
    set_up_parsing()
    LIST.write_text(HEAD + versions() + "\n".join(lines()) + "\n")
    sys.stdout.write(f"{LIST}\n")
