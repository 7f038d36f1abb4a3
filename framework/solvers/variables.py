"""Variables of a solver: a tensor, several, named ones, or a network with its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from framework.distributed.collectives import all_reduce_sum, world_size

Variables = Tensor | Sequence[Tensor] | Mapping[str, Tensor] | nn.Module


def tensors_of(variables: Variables) -> list[Tensor]:
    """Return the tensors that are changed, in their order; of a network its trained parameters.

    Example:
        >>> [tuple(t.shape) for t in tensors_of({"w": torch.zeros(2), "b": torch.zeros(())})]
        [(2,), ()]
    """
    if isinstance(variables, Tensor):
        return [variables]
    if isinstance(variables, nn.Module):
        return [p for p in variables.parameters() if p.requires_grad]
    if isinstance(variables, Mapping):
        return list(variables.values())
    return list(variables)


def check_variables(variables: Variables) -> None:
    """Raise ``ValueError`` where there is no tensor, or one that is the result of others."""
    tensors = tensors_of(variables)
    if not tensors:
        raise ValueError("Variables without a tensor to change: give at least one.")
    for tensor in tensors:
        if not tensor.is_leaf:
            raise ValueError(
                f"A variable of shape {tuple(tensor.shape)} is the result of other tensors, which "
                "no step can change: give variable.detach()."
            )


@contextmanager
def asking_for_gradients(*groups: Variables) -> Iterator[None]:
    """Let tensors ask for gradients inside, and leave them as they were."""
    plain = [t for group in groups for t in tensors_of(group) if not t.requires_grad]
    for tensor in plain:
        tensor.requires_grad_()
    try:
        yield
    finally:
        for tensor in plain:
            tensor.requires_grad_(False)


def copy_of(variables: Variables) -> Any:
    """Return a copy with tensors of its own, in the same form."""
    if isinstance(variables, nn.Module):
        return deepcopy(variables)
    if isinstance(variables, Tensor):
        return variables.detach().clone()
    if isinstance(variables, Mapping):
        return {name: tensor.detach().clone() for name, tensor in variables.items()}
    return tuple(tensor.detach().clone() for tensor in variables)


@torch.no_grad()
def write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Replace what tensors hold, as a checkpoint's are on whatever device.

    Raises:
        ValueError: Another number of tensors, or another shape.
    """
    shapes = [[tuple(t.shape) for t in group] for group in (tensors, values)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"The saved variables have the shapes {shapes[1]}, not {shapes[0]}.")
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def gradients_of(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return gradients, zeros for what the value does not depend on."""
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, found, strict=True)
    ]


def means_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """Return means over the ranks, in one exchange."""
    if world_size() == 1:
        return tensors
    total = all_reduce_sum(torch.cat([tensor.flatten() for tensor in tensors])) / world_size()
    parts = total.split([tensor.numel() for tensor in tensors])
    return [p.view_as(t).to(t.dtype) for p, t in zip(parts, tensors, strict=True)]
