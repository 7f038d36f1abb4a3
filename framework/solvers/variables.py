"""Variables of a solver: a tensor, several, named ones, or a network with its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

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
    if isinstance(variables, (int, float)):
        raise ValueError(f"A variable must be a tensor, got the number {variables}.")
    tensors = tensors_of(variables)
    if not tensors:
        raise ValueError("Variables without a tensor to change: give at least one.")
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise ValueError(
                f"A variable of shape {tuple(tensor.shape)} holds {tensor.dtype}, which has no "
                "gradient: give variable.float()."
            )
        if not tensor.is_leaf:
            raise ValueError(
                f"A variable of shape {tuple(tensor.shape)} is the result of other tensors, which "
                "no step can change: give variable.detach()."
            )


def check_alike(name: str, variables: Variables, others: Variables) -> None:
    """Raise ``ValueError`` where variables, named in the message, have other shapes than others."""
    found, expected = ([tuple(t.shape) for t in tensors_of(v)] for v in (variables, others))
    if found != expected:
        raise ValueError(f"{name} must have the shapes {expected} of y, got {found}.")


def check_optimized(optimizer: Optimizer, groups: Mapping[str, Variables]) -> None:
    """Raise ``ValueError`` where a tensor of groups, by name, is not among the optimizer's."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, group in groups.items():
        for tensor in tensors_of(group):
            if id(tensor) not in held:
                raise ValueError(
                    f"The optimizer does not hold a tensor of {name}, of shape "
                    f"{tuple(tensor.shape)}, which would never move: build it from x and y."
                )


@contextmanager
def asking_for_gradients(*groups: Variables) -> Iterator[None]:
    """Let tensors ask for gradients inside, and leave them as they were."""
    plain = [t for group in groups for t in tensors_of(group) if not t.requires_grad]
    for tensor in plain:
        tensor.requires_grad_()
    try:
        with torch.enable_grad():
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


def described(value: Any) -> str:
    """Return what a value is, for messages."""
    if isinstance(value, Tensor):
        return f"the shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def scalar(name: str, value: Any) -> Tensor:
    """Return a value that must be a scalar.

    Args:
        name: Name of the function it comes from.
        value: What the function returned.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"{name} must return a scalar tensor, got {described(value)}.")
    return value.reshape(())


def gradients_of(value: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Return gradients, zeros for what the value does not depend on."""
    found = torch.autograd.grad(value, tensors, allow_unused=True)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, found, strict=True)
    ]
