"""Turns a parser's error into one sentence: the path in the config, the value, the nearest names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

COMMANDS = ("fit", "validate", "test", "predict")


def sentence(message: str, parser: Any) -> str:
    """Return one sentence for a person.

    Args:
        message: what jsonargparse says, possibly many lines.
        parser: whose options are known, for the nearest names.
    """
    where = _where(message)
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
        path = denied.group(1)
        return (
            f"{where}{path} is not in a trusted package and was not imported; "
            f"use --allow {path.split('.')[0]} if you trust it."
        )
    if name := re.search(r"Expected a dot import path string: ([^\s,]+)", message):
        return f"{where}there is no class {name.group(1)!r}{nearest(name.group(1), class_names())}."
    if name := re.search(r"(?:No module named|Unable to import|Undefined) '?([\w.]+)", message):
        return f"{where}there is no class {name.group(1)!r}{nearest(name.group(1), class_names())}."
    if name := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", message):
        known = nearest(name.group(1), argument_names())
        return f"{where}there is no setting {name.group(1)!r} here{known}."
    if name := re.search(r"[Uu]nrecognized arguments?: (\S+)", message):
        flag = name.group(1).split("=")[0]
        options = [option for action in parser._actions for option in action.option_strings]
        return f"there is no option {flag!r}{nearest(flag, options)}."
    if name := re.search(r"argument subcommand: invalid choice: '([^']+)'", message):
        near = nearest(name.group(1), COMMANDS)
        return f"there is no command {name.group(1)!r}{near}; the commands are {_join(COMMANDS)}."
    if missing := re.search(r"arguments are required: (.+)", message):
        return (
            f"{missing.group(1).replace('fit.', '')} must be given: name a config, for example "
            "--config configs/classifier.yaml."
        )
    if "Problems parsing config" in message:
        return f"a config is not valid YAML: {' '.join(message.split())}."
    kinds = re.findall(r"Expected an? <class '([\w.]+)'>", message)
    value = re.search(r"(?:Given|Got) value: (.+)", message)
    if kinds and value:
        wanted = " or ".join("nothing" if k == "NoneType" else k for k in dict.fromkeys(kinds))
        return f"{where}{value.group(1)!r} is not of type {wanted}."
    lines = [line.strip(" -") for line in message.strip().splitlines() if line.strip()]
    return f"{where}{lines[-1] if lines else message}"


def _where(message: str) -> str:
    keys = dict.fromkeys(re.findall(r"Parser key ['\"]([^'\"]+)['\"]", message))
    return f"{'.'.join(keys)}: " if keys else ""


def _join(words: Iterable[str]) -> str:
    return ", ".join(words)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``'; the nearest are a, b, c'``, or nothing."""
    short = word.rpartition(".")[2].lower()
    by_lower = {name.lower(): name for name in known}
    close = get_close_matches(short, list(by_lower), n=3, cutoff=0.5)
    return f"; the nearest are {_join(by_lower[c] for c in close)}" if close else ""


def _classes() -> Iterator[type]:
    """Yield every imported class that a config may name."""
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.loggers import Logger
    from torch.nn.modules.loss import _Loss

    pending: list[type] = [
        LightningModule,
        LightningDataModule,
        Callback,
        Logger,
        _Loss,
        torch.optim.Optimizer,
        torch.optim.lr_scheduler.LRScheduler,
    ]
    while pending:
        kind = pending.pop()
        yield kind
        pending += kind.__subclasses__()


def class_names() -> list[str]:
    """Return the names of every imported class that a config may name."""
    return sorted({kind.__name__ for kind in _classes() if not kind.__name__.startswith("_")})


def argument_names() -> list[str]:
    """Return the names of the arguments of all those classes."""
    return sorted({name for kind in _classes() for name in inspect.signature(kind).parameters})
