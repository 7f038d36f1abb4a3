"""Copies of modules that compute with weights of their own."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def copy_module(module: Module) -> Module:
    """Return a deep copy whose methods are its own, also of a compiled module.

    ``torch.compile`` and Lightning write compiled methods into a module, and ``deepcopy`` copies no
    functions: a copy would call the module that it was copied from.

    Example:
        >>> copy_module(nn.Linear(2, 1)).weight.shape
        torch.Size([1, 2])
    """
    copied = deepcopy(module)
    forget_methods_of_others(copied)
    return copied


def forget_methods_of_others(module: nn.Module) -> None:
    """Take from every part of a module what was written over a method and calls another module."""
    own = set(module.modules())
    for part in own:
        for name, value in list(vars(part).items()):
            if not (inspect.isroutine(value) and hasattr(type(part), name)):
                continue
            owner = getattr(inspect.unwrap(value), "__self__", None)
            if isinstance(owner, nn.Module) and owner not in own:
                del part.__dict__[name]
        if getattr(part, "_compiler_ctx", None) is not None:
            # Lightning's note that its methods are compiled
            vars(part)["_compiler_ctx"] = None
