"""Gradients of each term, and their inner products over the global batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from framework.distributed.collectives import all_reduce_sum, world_size
from framework.utilities.devices import to_device
from framework.utilities.precision import at_least_float32

Gradients = list[Tensor | None]
"""One per parameter, None for one that a term does not reach."""

COLUMNS = 1 << 20


def gradients_of(value: Tensor, inputs: Sequence[Tensor]) -> Gradients:
    """Return the gradient of a scalar with respect to each input; the graph is kept."""
    if not value.requires_grad or not inputs:
        return [None] * len(inputs)
    return list(torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True))


class GlobalGradients(NamedTuple):
    """Gradients of T losses over the global batch, and what a step must know of them."""

    rows: Tensor
    """(T, P), flattened over the parameters."""
    gram: Tensor
    """Inner products (T, T) of the rows, in float64 on the CPU."""
    values: Tensor
    """The losses (T,), in float64 on the CPU."""
    reached: Tensor
    """(T, parameters) bool on the CPU, whether a loss reaches a parameter on any rank."""


def global_gradients(
    rows: Iterable[Gradients], values: Sequence[Tensor], parameters: Sequence[Parameter]
) -> GlobalGradients:
    """Return the gradients of the global batch; every rank gets the same, by one all-reduce.

    Args:
        rows: Gradients of T losses whose mean over the ranks is the global one; they are asked
            for one after the other, so that no two need be in memory.
        values: The T losses.
        parameters: Parameters of P elements in all; a gradient that is missing counts as zero.
    """
    size, ranks = sum(p.numel() for p in parameters), world_size()
    like = at_least_float32(torch.stack([value.detach() for value in values]))
    columns = size + 1 + len(parameters) if ranks > 1 else size
    matrix = like.new_empty(len(values), columns)
    flags = []
    for row, found in zip(matrix, rows, strict=True):
        flags.append([gradient is not None for gradient in found])
        parts = [
            like.new_zeros(parameter.numel()) if gradient is None else gradient.flatten()
            for gradient, parameter in zip(found, parameters, strict=True)
        ]
        if parts:
            torch.cat(parts, out=row[:size])
    reached = torch.tensor(flags)
    known = like[:, None]
    if ranks > 1:
        matrix[:, size] = like
        matrix[:, size + 1 :] = to_device(reached.to(matrix.dtype), matrix.device)
        dist.all_reduce(matrix)
        matrix /= ranks
        known = matrix[:, size:]
    # one copy for all, as each makes the host wait for a GPU
    facts = torch.cat([gram_matrix(matrix[:, :size]), known.double()], dim=1).cpu()
    gram, known, there = facts.tensor_split((len(values), len(values) + 1), dim=1)
    # a product of matrices need not be symmetric to the last bit
    gram = (gram + gram.T) / 2
    return GlobalGradients(matrix[:, :size], gram, known[:, 0], there > 0 if ranks > 1 else reached)


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the inner products (T, T) of rows (T, P), in float64."""
    # by parts, as all of it in float64 could need more memory than the step itself
    parts = (part.double() for part in rows.split(COLUMNS, dim=1))
    return reduce(torch.add, (part @ part.T for part in parts))


def feature_products(
    rows: Sequence[Tensor | None], guide: Tensor | None, values: Sequence[Tensor], features: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what is known of gradients with respect to features, of the global batch.

    Args:
        rows: Local gradients (B, D) of T losses, None for one that does not use the features.
        guide: Gradient (B', D) of the guide, whose rows are other samples.
        values: The T losses and, with a guide, its value.
        features: Representation (B, D) of the batch.

    Returns:
        The inner products (T, T) over all rows; those (T,) of a shift that is common to all rows
        with the guide's; and the global values. In float64 on the CPU.
    """
    zeros = torch.zeros_like(features)
    stacked = torch.stack([zeros if row is None else row for row in rows]).double()
    terms, ranks = len(rows), world_size()
    flat = stacked.flatten(1)
    # a term's gradient for its own features is W times its share, as DDP averages over the ranks
    parts = [(flat @ flat.T).flatten() / ranks**2]
    parts.append(torch.stack([value.detach().double() for value in values]) / ranks)
    if guide is not None:
        shifts = torch.cat([stacked.sum(1), guide.double().sum(0, keepdim=True)])
        parts.append(shifts.flatten() / ranks)
    total = all_reduce_sum(torch.cat(parts)).cpu()
    gram, found, moved = total.tensor_split((terms**2, terms**2 + len(values)))
    products = None
    if guide is not None:
        moved = moved.view(terms + 1, -1)
        products = moved[:-1] @ moved[-1]
    gram = gram.view(terms, terms)
    return (gram + gram.T) / 2, products, found
