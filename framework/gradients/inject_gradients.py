"""A value whose backward pass hands out gradients that were computed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def inject_gradients(
    value: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> Tensor:
    """Return ``value`` as if ``gradients`` were its gradients with respect to ``parameters``.

    What happens in a backward pass, such as DDP's average over ranks, so happens to them.

    Args:
        value: Scalar, whose own graph is not used.
        parameters: Leaves of any graph, N of them.
        gradients: Gradients of their shapes, N of them.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> inject_gradients(torch.tensor(5.0), [x], [torch.tensor([1.0, 2.0])]).backward()
        >>> x.grad
        tensor([1., 2.])
    """
    return _Injected.apply(value.detach(), list(gradients), *parameters)


class _Injected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        # a GPU multiplies sooner than it tells the value
        if factor.device.type == "cpu" and float(factor) == 1:
            return None, None, *ctx.gradients
        return None, None, *_scaled(ctx.gradients, factor)


def _scaled(gradients: list[Tensor], factor: Tensor) -> Sequence[Tensor]:
    if len({(gradient.dtype, gradient.device) for gradient in gradients}) > 1:
        return [gradient * factor.to(gradient) for gradient in gradients]
    # a few launches for all
    return torch._foreach_mul(gradients, factor.to(gradients[0])) if gradients else []
