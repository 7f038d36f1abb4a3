"""One operation below autograd, with its tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tests.pretended_gpu.marks import device_of, flat_tensors
from tests.pretended_gpu.rules import NO_LAUNCH


@dataclass
class Operation:
    """An operation that is about to run.

    Args:
        func: Overload of ATen.
        args: Its positional arguments.
        kwargs: Its others.
        device: Pretended device that it runs on, None for the CPU.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device: torch.device | None = None
    name: str = field(init=False)
    tensors: list[Tensor] = field(init=False)
    devices: list[torch.device | None] = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.func._schema.name
        self.tensors = list(flat_tensors((self.args, tuple(self.kwargs.values()))))
        self.devices = [device_of(x) for x in self.tensors]

    @property
    def short_name(self) -> str:
        """Its name without ``aten::``."""
        return self.name.removeprefix("aten::")

    @property
    def is_random(self) -> bool:
        """Whether it draws numbers."""
        return torch.Tag.nondeterministic_seeded in self.func.tags

    @property
    def is_pointwise(self) -> bool:
        """Whether every element of the result comes from one of each argument."""
        return torch.Tag.pointwise in self.func.tags

    @property
    def launches(self) -> bool:
        """Whether it is a launch, and neither a view nor an allocation."""
        return self.device is not None and self.name not in NO_LAUNCH and not _is_view(self.func)

    def given(self) -> Iterator[tuple[Any, Any]]:
        """Yield what the schema says of each argument, and its value."""
        named = {argument.name: argument for argument in self.func._schema.arguments}
        yield from zip(self.func._schema.arguments, self.args, strict=False)
        yield from ((named[name], value) for name, value in self.kwargs.items())


def is_written(argument: Any) -> bool:
    """Return whether an operation writes to an argument, by its schema."""
    return argument.alias_info is not None and argument.alias_info.is_write


@cache
def is_composite(func: Any) -> bool:
    """Return whether an operation is made of others."""
    key = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


@cache
def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
