"""The form of what Lightning keeps in a checkpoint, checked before any of it is restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework.utilities.plain_tree import DICTS, SCALARS, SEQUENCES, TEXTS

ANY = "*"
"""Stands for every key of a dict, each of which is a text."""
MOST = 1 << 53
"""Epochs, steps or batches that a run can have counted."""
FORM: dict[str, Any] = {
    "state_dict": {ANY: object},
    "current_model_state": {ANY: object},
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "loops": {ANY: {ANY: dict}},
    "callbacks": {ANY: dict},
    "optimizer_states": [{"state": dict, "param_groups": [{ANY: object}]}],
    "lr_schedulers": [{ANY: object}],
    "rng": [{"python": list, "numpy": list, "torch": Tensor, "cuda": list}],
    "sample_state": {ANY: {"table": Tensor}},
    "shards": str,
    "data_facts": {ANY: object},
    "model_classes": [str],
}
"""Types by key; the items of a list have one form, and no key must be there."""

_READ = (torch.dtype, torch.device, np.ndarray, np.generic)


def unreadable_part(content: Any, place: str = "") -> str | None:
    """Return the first part of a checkpoint that ``load_archive`` would refuse, and its type.

    Args:
        content: The checkpoint, or a part of it.
        place: Names of the dicts and numbers of the items that lead there.

    Example:
        >>> unreadable_part({"hyper_parameters": {"root": Path(), "size": 3}}).split(" a ")[0]
        "'hyper_parameters.root' is"
    """
    kind = type(content)
    if kind in DICTS | SEQUENCES:
        items = content.items() if kind in DICTS else enumerate(content)
        below = f"{place}." if place else ""
        found = (unreadable_part(item, f"{below}{name}") for name, item in items)
        return next(filter(None, found), None)
    if kind in SCALARS | TEXTS or isinstance(content, _READ):
        return None
    if isinstance(content, Tensor) and not _is_special(content):
        return None
    return f"{place!r} is a {kind.__module__}.{kind.__qualname__}"


def _is_special(tensor: Tensor) -> bool:
    """Return whether a tensor is more than numbers in memory, such as a quantized one."""
    unlike = (
        tensor.is_quantized,
        tensor.is_nested,
        tensor.is_meta,
        tensor.is_conj(),
        tensor.is_neg(),
    )
    return type(tensor) not in (Tensor, nn.Parameter) or any(unlike) or bool(vars(tensor))


def check_form(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raise a ``ValueError`` where Lightning would stumble over a part of a checkpoint.

    Args:
        checkpoint: Content of a checkpoint.
        path: Its file, for the message.

    Example:
        >>> check_form({"state_dict": {}, "loops": [1]}, "last.ckpt")
        Traceback (most recent call last):
        ValueError: last.ckpt is damaged: its 'loops' must be a dict, and is a list.
    """
    wrong = _misfit(checkpoint, FORM, "") or _miscount(checkpoint.get("loops", {}), "loops")
    if wrong:
        raise ValueError(f"{path} is damaged: its {wrong}.")


def _misfit(value: Any, form: Any, place: str) -> str | None:
    """Return the first part that has another form, and the form that it must have."""
    kind = form if isinstance(form, type) else type(form)
    fits: bool = isinstance(value, kind)
    if not fits:
        return f"{place!r} must be a {kind.__name__}, and is a {type(value).__name__}"
    if kind is int and not 0 <= value < MOST:
        return f"{place!r} must be a number of epochs or steps, and is {str(value)[:30]}"
    parts: list[tuple[Any, Any]] = []
    if isinstance(form, list):
        parts = [(number, form[0]) for number in range(len(value))]
    elif isinstance(form, dict) and ANY in form:
        if not all(isinstance(key, str) for key in value):
            return f"{place!r} has a key that is no text"
        parts = [(key, form[ANY]) for key in value]
    elif isinstance(form, dict):
        parts = [(key, inner) for key, inner in form.items() if key in value]
    for key, inner in parts:
        if wrong := _misfit(value[key], inner, f"{place}.{key}" if place else str(key)):
            return wrong
    return None


def _miscount(loops: dict[str, Any], place: str) -> str | None:
    """Return the first count of a loop's progress that is none."""
    for key, value in loops.items():
        if not isinstance(key, str):
            # state of a loop of somebody's own, in which there is nothing to count
            continue
        inner = f"{place}.{key}"
        form = {ANY: int} if key in ("total", "current") else dict if "progress" in key else object
        wrong = _misfit(value, form, inner)
        if wrong is None and isinstance(value, dict):
            wrong = _miscount(value, inner)
        if wrong:
            return wrong
    return None
