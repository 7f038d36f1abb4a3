"""Gradients of each term, and their inner products over the global batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from framework.distributed.collectives import all_reduce_sum, world_size
from framework.utilities.precision import at_least_float32

Gradients = list[Tensor | None]
"""One per parameter, None for one that a term does not reach."""

COLUMNS = 1 << 20


def gradients_of(value: Tensor, inputs: Sequence[Tensor]) -> Gradients:
    """Return the gradient of a scalar with respect to each input; the graph is kept."""
    if not value.requires_grad or not inputs:
        return [None] * len(inputs)
    return list(torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True))


def global_rows(
    rows: Iterable[Gradients], values: Sequence[Tensor], parameters: Sequence[Parameter]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the global gradients (T, P), flattened over ``parameters``, and what belongs to them.

    Every rank gets the same, by one all-reduce.

    Args:
        rows: Gradients of T losses whose mean over the ranks is the global one; they are asked
            for one after the other, so that no two need be in memory.
        values: The T losses.
        parameters: Parameters of P elements in all; a gradient that is missing counts as zero.

    Returns:
        Beside the gradients the values (T,), and (T, parameters) bool, whether a term reaches a
        parameter on any rank.
    """
    size = sum(p.numel() for p in parameters)
    like = at_least_float32(torch.stack([value.detach() for value in values]))
    matrix = like.new_zeros(len(values), size + 1 + len(parameters))
    for row, found, value in zip(matrix, rows, like, strict=True):
        start = 0
        for place, (gradient, parameter) in enumerate(zip(found, parameters, strict=True)):
            end = start + parameter.numel()
            if gradient is not None:
                row[start:end] = gradient.flatten()
                row[size + 1 + place] = 1
            start = end
        row[size] = value
    if world_size() > 1:
        dist.all_reduce(matrix)
        matrix /= world_size()
    return matrix[:, :size], matrix[:, size], matrix[:, size + 1 :] > 0


def gram_matrix(rows: Tensor) -> Tensor:
    """Return the inner products (T, T) of rows (T, P), in float64 on the CPU."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    # by parts, as all of it in float64 could need more memory than the step itself
    for part in rows.split(COLUMNS, dim=1):
        double = part.double()
        total += double @ double.T
    # a product of matrices need not be symmetric to the last bit
    return ((total + total.T) / 2).cpu()


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
