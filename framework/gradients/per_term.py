"""Gradients of each term with respect to shared parameters, and the way back into ``.grad``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from framework.distributed import world_size


def per_term_gradients(terms: Mapping[str, Tensor], parameters: Sequence[Parameter]) -> Tensor:
    """Return (T, P): the global gradient of every term, flattened over ``parameters``.

    The graph is kept for the backward pass of the sum. Every rank gets the same matrix, by one
    all-reduce.

    Args:
        terms: T scalars, reduced as :func:`framework.reduction.reduce_objectives` does.
        parameters: with P elements in all; one that a term does not reach counts as zero.
    """
    rows = []
    for term in terms.values():
        grads: Sequence[Tensor | None] = [None] * len(parameters)
        if term.requires_grad:
            grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)
        ]
        rows.append(torch.cat([part.flatten() for part in parts]))
    matrix = torch.stack(rows)
    if world_size() > 1:
        dist.all_reduce(matrix)
        matrix /= world_size()
    return matrix


def assign_gradient(gradient: Tensor, parameters: Sequence[Parameter]) -> None:
    """Copy a flat (P,) gradient into the ``.grad`` of ``parameters``.

    A parameter that the backward pass did not reach stays without gradient: no term depends on it,
    and an optimizer would decay what has a gradient of zero.
    """
    start = 0
    for parameter in parameters:
        part = gradient[start : start + parameter.numel()]
        start += parameter.numel()
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))
