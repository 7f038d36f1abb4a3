"""Turns a parser's error into one sentence: the path in the config, the value, the nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

_KEY = re.compile(r"(?:Parser key|Key) ['\"]([^'\"]+)['\"]")
_CLASS = re.compile(
    r"(?:class_path|class path|class|import path|Import path)[^'\"]{0,40}['\"]([\w.]+)['\"]", re.I
)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_UNKNOWN = re.compile(r"Group '([^']+)' does not accept nested key '([^']+)'|Key '([^']+)' is not")


def sentence(message: str, parser: Any) -> str:
    """Return one sentence for a person.

    Args:
        message: what jsonargparse says, possibly many lines.
        parser: whose classes are known, for the nearest names.
    """
    denied = _DENIED.search(message)
    if denied:
        package = denied.group(1).split(".")[0]
        return (
            f"{_where(message)}{denied.group(1)} is not in a trusted package and was not imported; "
            f"use --allow {package} if you trust it."
        )
    lines = [line.strip(" -") for line in message.strip().splitlines() if line.strip()]
    unknown_class = _unknown_class(message)
    if unknown_class:
        near = nearest(unknown_class, class_names())
        return f"{_where(message)}there is no class {unknown_class!r}{near}."
    unrecognized = re.search(r"[Uu]nrecognized arguments?: (\S+)", message)
    if unrecognized:
        flag = unrecognized.group(1).split("=")[0]
        options = [o for a in parser._actions for o in a.option_strings]
        return f"there is no option {flag!r}{nearest(flag, options)}."
    choice = re.search(r"invalid choice: '?(\S+?)'? ", message)
    if choice and "fit" in message:
        return f"there is no command {choice.group(1)!r}; the commands are fit, validate, test, predict."
    key = re.search(r"does not accept nested key '([^']+)'", message)
    if key:
        return f"{_where(message)}there is no setting {key.group(1)!r} here."
    # the innermost line is the reason, the lines above it say where
    reason = lines[-1] if lines else message
    return f"{_where(message)}{reason}"


def _where(message: str) -> str:
    keys: list[str] = []
    for key in _KEY.findall(message):
        if key not in keys:
            keys.append(key)
    return f"{'.'.join(keys)}: " if keys else ""


def _unknown_class(message: str) -> str | None:
    for pattern in (
        r"given class_path '([\w.]+)'.*?(?:not found|Unable to import|No module named|Unexpected import path)",
        r"Unexpected import path format: ([\w.]+)",
        r"No module named '([\w.]+)'",
        r"[Ii]mport path ['\"]?([\w.]+)['\"]?.*not found",
        r"does not correspond to a subclass.*?'([\w.]+)'",
    ):
        found = re.search(pattern, message, re.S)
        if found:
            return found.group(1)
    return None


def nearest(word: str, known: Iterator[str] | list[str]) -> str:
    """Return ``'; the nearest are a, b, c'``, or nothing."""
    short = word.rpartition(".")[2]
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(short.lower(), list(by_lower), n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(by_lower[c] for c in close)}" if close else ""


def class_names() -> list[str]:
    """Return the names of every imported class that a config may name."""
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from torch.nn.modules.loss import _Loss

    roots: list[type] = [
        LightningModule,
        LightningDataModule,
        Callback,
        _Loss,
        torch.optim.Optimizer,
        torch.optim.lr_scheduler.LRScheduler,
    ]
    names: set[str] = set()
    while roots:
        kind = roots.pop()
        names.add(kind.__name__)
        roots += kind.__subclasses__()
    return sorted(name for name in names if not name.startswith("_"))
