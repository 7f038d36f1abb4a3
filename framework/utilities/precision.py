"""What stays in float32 at least, whatever the precision around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn


def at_least_float32(value: Tensor) -> Tensor:
    """Return ``value``, in float32 if it is in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


class FullPrecision(nn.Module):
    """Base of modules whose numbers keep their type where the rest goes to half precision.

    In bfloat16 a counter stops at 256, and a parameter of size 1 no longer moves by steps of 0.001.
    ``half()``, ``bfloat16()`` and ``to()`` such a type, as Lightning's ``bf16-true`` does, change
    the device only; other types are taken on.

    Class attributes:
        full_precision: Names of the buffers that this holds for; None for everything, also in
            parts of the module.

    Example:
        >>> class Counter(FullPrecision):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.register_buffer("count", torch.zeros(()))
        >>> Counter().bfloat16().count.dtype
        torch.float32
    """

    full_precision: ClassVar[tuple[str, ...] | None] = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        careful = without_half(fn)
        if self.full_precision is None:
            return super()._apply(careful, recurse)
        before = {name: self.get_buffer(name) for name in self.full_precision}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            setattr(self, name, careful(buffer))
        return self


class FullPrecisionDict(FullPrecision, nn.ModuleDict):
    """``ModuleDict`` of modules that keep the type of their numbers, such as metrics."""


def without_half(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return ``fn`` for ``nn.Module._apply`` that changes no type to half precision.

    A result in float16 or bfloat16 is replaced by the value itself on the result's device.
    """

    # torchmetrics reads the function's name
    @functools.wraps(fn)
    def apply(value: Tensor) -> Tensor:
        result = fn(value)
        if result.dtype in (torch.float16, torch.bfloat16):
            return value.to(result.device)
        return result

    return apply
