"""Products of rows with the unit vectors of many classes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-12


def cosine_products(x: Tensor, weight: Tensor) -> Tensor:
    r"""Return :math:`x_i \cdot w_j / \|w_j\|`, (B, C): ``F.linear(x, F.normalize(weight))``.

    It divides the products and not the vectors, and goes over a table of either size less often,
    which is what takes time and memory with many classes. May be differentiated twice.

    Args:
        x: (B, d).
        weight: Vectors of the classes, (C, d).

    Example:
        >>> import torch
        >>> cosine_products(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000]])
    """
    return _CosineProducts.apply(x, weight)


def _inverse_norms(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1).clamp(min=EPSILON).reciprocal()


class _CosineProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        inverse = _inverse_norms(weight)
        ctx.save_for_backward(x, weight, inverse)
        return F.linear(x, weight).mul_(inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            inverse = _inverse_norms(weight)
        grad = grad * inverse
        of_x = grad @ weight if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None
        of_weight = grad.T @ x
        along = ((of_weight * weight).sum(1) * inverse.square())[:, None]
        if torch.is_grad_enabled():
            return of_x, torch.addcmul(of_weight, weight, along, value=-1)
        return of_x, of_weight.addcmul_(weight, along, value=-1)
