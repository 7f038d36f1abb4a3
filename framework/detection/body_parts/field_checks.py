"""Checks of the tensors that a person hands over, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_BOOLEAN = ("visible", "part_ignored", "ignored")
_WHOLE = ("labels", "body")


def check_present(one: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuse an image without fields of these names, or with other things than tensors.

    Args:
        one: Fields of an image by name.
        names: Names that it needs.

    Raises:
        ValueError: A field is missing or no tensor.
    """
    missing = [name for name in names if name not in one]
    if missing:
        raise ValueError(f"An image lacks {', '.join(missing)}; it has {', '.join(one)}.")
    for name in names:
        if not isinstance(one[name], Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(one[name]).__name__}.")


def check_fields(one: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse fields of other shapes or types, or on several devices.

    Args:
        one: Fields of an image by name.
        shapes: Shapes that they must have, by the names of the fields that are looked at.

    Raises:
        ValueError: A field has another shape, is of numbers where it should be of booleans or of
            fractions where it should be whole, or lies on another device.

    Example:
        >>> import torch
        >>> check_fields({"labels": torch.tensor([0.0])}, {"labels": (1,)})
        Traceback (most recent call last):
        ValueError: labels must be whole numbers, got torch.float32.
    """
    for name, shape in shapes.items():
        value = one[name]
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(value.shape)}.")
        is_bool = value.dtype == torch.bool
        if name in _BOOLEAN and not is_bool:
            raise ValueError(f"{name} must be bool, got {value.dtype}.")
        if name in _WHOLE and (is_bool or value.is_floating_point()):
            raise ValueError(f"{name} must be whole numbers, got {value.dtype}.")
    devices = {str(one[name].device): name for name in shapes}
    if len(devices) > 1:
        found = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ValueError(f"The fields of an image must lie on one device, got {found}.")
