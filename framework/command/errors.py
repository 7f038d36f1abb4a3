"""One-line messages for errors: the path in the config, the value, the nearest names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator

from jsonargparse import ArgumentParser

from framework.command.class_paths import TRUSTED
from framework.command.jsonargparse_internals import option_strings
from framework.utilities.nearest_names import nearest

COMMANDS = ("fit", "validate", "test", "predict")
PACKAGES = ("framework", "modules", "datamodules", "callbacks")
EXAMPLE = "trimtab fit --config configs/classifier.yaml"
# what jsonargparse says of every type that a value is not
_NO_CAUSE = re.compile(
    r"Expected an? |Does not validate|Problem with given class_path|Not a valid subclass|"
    r"Import path|an? (?:class path|dict) "
)


def describe(error: BaseException) -> str:
    """Return a one-line message about an error of a run.

    An error of a loading process arrives with that process's traceback, an error of a constructor
    inside jsonargparse's list of all types that it tried; only the cause is kept.
    """
    text = str(error) or type(error).__name__
    if "in DataLoader worker process" in text:
        lines = text.rstrip().splitlines()
        last_frame = max(i for i, line in enumerate(lines) if line.startswith("  "))
        text = " ".join(lines[last_frame + 1 :]).partition(": ")[2]
    if causes := _causes(text):
        text = causes[0]
    if text.startswith("Error(s) in loading state_dict for "):
        text = _misfit(text)
    return _finished(" ".join(text.split()))


def _misfit(text: str) -> str:
    """Return what torch says of weights that do not fit a model, with the first of them only."""
    model = re.findall(r"state_dict for (\w+)", text)[0]
    name = re.findall(r"size mismatch for ([\w.]+):", text)
    shapes = re.findall(r"torch\.Size\((\[[\d, ]*\])\)", text)
    absent = re.findall(r"(Missing|Unexpected) key\(s\) in state_dict: \"([\w.]+)\"", text)
    if absent:
        kind, key = absent[0]
        found = f"it {'lacks' if kind == 'Missing' else 'also holds'} {key}"
    elif name and len(shapes) > 1:
        found = f"{name[0]} has the shape {shapes[0]} in it and {shapes[1]} in the model"
    else:
        return text
    return (
        f"The checkpoint does not fit this {model}: {found}; build the model as its run did, by "
        "the config beside it and no other options of the model"
    )


def _causes(message: str) -> list[str]:
    """Return the points of jsonargparse's list that say more than that a type did not fit."""
    points = re.findall(r"^ *- (.+)$", message, re.M) if "Does not validate" in message else []
    return [point for point in points if not _NO_CAUSE.match(point)]


def _finished(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def format_parser_error(message: str, parser: ArgumentParser) -> str:
    """Return a one-line message about a wrong command line or config.

    Args:
        message: Message of jsonargparse, possibly of many lines.
        parser: Parser that refused, whose options are known.
    """
    where = _where(message)
    if denied := re.search(r"Importing '([\w.]+)' is not allowed", message):
        path = denied.group(1)
        package = path.split(".")[0]
        if package in TRUSTED:
            return f"{where}{path} can load foreign code and was not imported."
        return (
            f"{where}{path} is not in a trusted package and was not imported; "
            f"use --allow {package} if you trust it."
        )
    if name := re.search(r"Expected a dot import path string: ([^\s,]+)", message):
        if name.group(1) in class_names():
            wanted = " or ".join(re.findall(r"<class '[\w.]+\.(\w+)'>", message))
            # where a single class is wanted, the message does not name it
            what = f"is not a {wanted}" if wanted else "is not of the kind that is wanted here"
            return f"{where}{name.group(1)} {what}."
        return f"{where}there is no class {name.group(1)!r}{nearest(name.group(1), class_names())}."
    # Python's words, and those of a package that imports lazily
    if name := re.search(r"(?:module '[\w.]+' has no|No [\w.]+) attribute '?(\w+)", message):
        return f"{where}there is no class {name.group(1)!r}{nearest(name.group(1), class_names())}."
    if name := re.search(r"(?:No module named|Unable to import|Undefined) '?([\w.]+)", message):
        return f"{where}there is no class {name.group(1)!r}{nearest(name.group(1), class_names())}."
    if name := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", message):
        known = nearest(name.group(1), argument_names())
        return f"{where}there is no setting {name.group(1)!r} here{known}."
    if name := re.search(r"[Uu]nrecognized arguments?: (\S+)", message):
        flag = name.group(1).split("=")[0]
        return f"there is no option {flag!r}{nearest(flag, option_strings(parser))}."
    if name := re.search(r"argument subcommand: invalid choice: '([^']+)'", message):
        near = nearest(name.group(1), COMMANDS)
        return f"there is no command {name.group(1)!r}{near}; the commands are {_join(COMMANDS)}."
    if 'expected "subcommand"' in message:
        return f"give one of the commands {_join(COMMANDS)}, for example: {EXAMPLE}."
    if missing := re.search(r"arguments are required: (.+)", message):
        keys = re.sub(rf"\b(?:{'|'.join(COMMANDS)})\.", "", missing.group(1))
        return f"{keys} must be given: name a config, for example: {EXAMPLE}."
    if message.startswith("Unexpected config"):
        return "a config must be a mapping, with keys such as model, data and trainer."
    if "Problems parsing config" in message:
        return f"a config is not valid YAML: {' '.join(message.split())}."
    kinds = re.findall(r"Expected an? <class '([\w.]+)'>", message)
    value = re.search(r"(?:Given|Got) value: (.+)", message)
    if path := re.search(r"Import path ([\w.]+) does not correspond to a subclass", message):
        wanted = " or ".join(dict.fromkeys(re.findall(r"to a subclass of (\w+)", message)))
        return f"{where}{path.group(1)} is not a {wanted}."
    if value and (choices := re.findall(r"Expected a typing.Literal\[(.+)\]", message)):
        known = _join(dict.fromkeys(c.strip("' ") for c in ",".join(choices).split(",")))
        return f"{where}{value.group(1)!r} is not one of {known}."
    if kinds and value:
        wanted = " or ".join("nothing" if k == "NoneType" else k for k in dict.fromkeys(kinds))
        return f"{where}{value.group(1)!r} is not of type {wanted}."
    lines = [line.strip(" -") for line in message.strip().splitlines() if line.strip()]
    causes = _causes(message) or lines[-1:]
    return f"{where}{_finished(causes[0] if causes else message)}"


def _where(message: str) -> str:
    keys = dict.fromkeys(re.findall(r"Parser key ['\"]([^'\"]+)['\"]", message))
    return f"{'.'.join(keys)}: " if keys else ""


def _join(words: Iterable[str]) -> str:
    return ", ".join(words)


def _classes() -> Iterator[type]:
    """Yield every imported class that a config may name."""
    import torch
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.loggers import Logger
    from torch.nn.modules.loss import _Loss

    # what else the packages export, such as the alignments of a module
    ours = [sys.modules[name] for name in list(sys.modules) if name.partition(".")[0] in PACKAGES]
    exported = [getattr(one, name) for one in ours for name in getattr(one, "__all__", ())]
    yield from (
        kind for kind in exported if isinstance(kind, type) and not issubclass(kind, BaseException)
    )
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
