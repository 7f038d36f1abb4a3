"""Functions that compiled code calls as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


def graph_operation(
    like: Callable[..., Returned],
) -> Callable[[Callable[Arguments, Returned]], Callable[Arguments, Returned]]:
    """Let ``torch.compile`` take a function as one operation, and not look into it.

    It so stands in a graph where its body would break it, as with a generator that is made and
    seeded. It has no gradient, changes no argument, and returns a new tensor. Its arguments are
    annotated and go by position. Without ``torch.compile`` it is the function.

    Args:
        like: Function of the same arguments that returns a tensor of the same shape and type.

    Example:
        >>> import torch
        >>> @graph_operation(torch.empty_like)
        ... def doubled(x: torch.Tensor) -> torch.Tensor:
        ...     return x * 2
        >>> doubled(torch.ones(2))
        tensor([2., 2.])
    """

    def decorate(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
        name = f"trimtab::{function.__module__}.{function.__qualname__}".replace(".", "_")
        # replayed by a CUDA graph, it would draw the same numbers in each step
        tags = (torch.Tag.cudagraph_unsafe,)
        operation = torch.library.custom_op(name, function, mutates_args=(), tags=tags)
        operation.register_fake(like)

        @wraps(function)
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
            inside = operation if torch.compiler.is_compiling() else function
            return inside(*args, **kwargs)

        return call

    return decorate
