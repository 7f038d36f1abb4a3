"""The base of optimizers that keep one running mean of the gradient per parameter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from framework.optim.blocks import Triple


class MomentumOptimizer(Optimizer):
    """An optimizer with one momentum per parameter, in float32 where the weight is in half.

    A subclass says in ``check`` which options it refuses, and in ``step_group`` what a step is.
    Parameters without a gradient or without entries are passed over; a closure is called once.
    """

    momentum_key: ClassVar[str] = "momentum_buffer"
    """Name of the momentum in the state of a parameter."""

    @staticmethod
    def descended(parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Return what the momentum averages: the gradient, to descend along."""
        return descended_gradient(parameter, group)

    @abstractmethod
    def check(self, options: dict[str, Any]) -> None:
        """Raise ``ValueError`` for options of a group that are out of range."""

    @abstractmethod
    def step_group(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        """Move the parameters of a group, all of which have a gradient."""

    def before_step(self) -> None:
        """Look at all groups before the first of them moves."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose options take the place of the defaults."""
        self.check(self.defaults | param_group)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure is called once and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [[p for p in group["params"] if has_gradient(p)] for group in self.param_groups]
        if any(p.grad.is_sparse for p in chain.from_iterable(moving)):
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients.")
        self.before_step()
        for group, parameters in zip(self.param_groups, moving, strict=True):
            if parameters:
                self.step_group(group, parameters)
        return loss

    def momentum(self, parameter: Tensor) -> Tensor:
        """Return the momentum of a parameter, 0 before its first step."""
        state = self.state[parameter]
        if self.momentum_key not in state:
            state[self.momentum_key] = torch.zeros_like(
                parameter, dtype=state_dtype(parameter), memory_format=torch.preserve_format
            )
        momentum: Tensor = state[self.momentum_key]
        return momentum

    def triple(self, parameter: Tensor, group: dict[str, Any]) -> Triple:
        """Return weight, gradient to descend along and momentum as real tensors."""
        momentum = real_view(self.momentum(parameter))
        gradient = real_view(self.descended(parameter, group))
        return real_view(parameter), gradient.to(momentum.dtype), momentum

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; the float32 momentum of a half-precision weight stays in float32."""
        super().load_state_dict(state_dict)
        load_uncast(self, state_dict, self.momentum_key, state_dtype)


def load_uncast(
    optimizer: Optimizer,
    state_dict: dict[str, Any],
    key: str,
    dtype_of: Callable[[Tensor], torch.dtype],
) -> None:
    """Load a tensor of each parameter's state again, in a dtype of its own.

    ``load_state_dict`` of ``torch.optim`` casts every state to the dtype of its parameter, which
    would round the float32 momentum of a bfloat16 weight.

    Args:
        optimizer: Optimizer that has loaded the state.
        state_dict: State that it has loaded.
        key: Name of the tensor in the state of a parameter.
        dtype_of: Function that returns its dtype for a parameter.
    """
    saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    own = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    for number, parameter in zip(saved, own, strict=True):
        value = state_dict["state"].get(number, {}).get(key)
        if value is not None:
            optimizer.state[parameter][key] = value.to(
                parameter.device, dtype_of(parameter), copy=True
            )


def has_gradient(parameter: Tensor) -> bool:
    """Return whether a step moves this parameter."""
    return parameter.grad is not None and parameter.numel() > 0


def descended_gradient(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the gradient, negated under ``maximize``; the parameter's own is left alone."""
    gradient = parameter.grad
    assert gradient is not None
    return gradient.neg() if group["maximize"] else gradient


def penalized_gradient(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the gradient likewise, with that of the L2 penalty of ``weight_decay``."""
    gradient = descended_gradient(parameter, group)
    return (
        gradient.add(parameter, alpha=group["weight_decay"]) if group["weight_decay"] else gradient
    )


def real_view(x: Tensor) -> Tensor:
    """Return complex numbers as pairs of real ones."""
    return torch.view_as_real(x) if x.is_complex() else x


def state_dtype(parameter: Tensor) -> torch.dtype:
    """Return the dtype of what is remembered of a parameter."""
    # in half precision a momentum with a beta of 0.99 would lose small gradients
    low = parameter.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if low else parameter.dtype
