"""From one rank's objectives to terms whose gradients average to those of the global mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from framework.distributed.collectives import world_size
from framework.objectives.objectives import Objectives
from framework.utilities.precision import at_least_float32


@dataclass
class ReducedObjectives:
    """The terms of one step after reduction.

    Args:
        terms: Scalars; averaged over the ranks, value and gradient are those of the global batch.
        total: Weighted sum of the terms, to be sent backward.
        rows: Rows of the global batch.
        nonfinite: (T,) bool, in the order of ``terms``: the term, its weight or its normalizer is
            NaN or infinite on any rank.
        normalizer: What the mean over the global batch was divided by, such as the rows that are
            not to be ignored, or their class weights; None unless there is one term, per sample.
    """

    terms: dict[str, Tensor]
    total: Tensor
    rows: Tensor | float
    nonfinite: Tensor | None
    normalizer: Tensor | float | None = None


def reduce_objectives(objectives: Objectives) -> ReducedObjectives:
    """Reduce every term by its global normalizer, in one small all-reduce.

    A per-sample term becomes ``W * sum(w * l) / all_reduce(sum(w * count))`` and a scalar term
    ``W * count * term / all_reduce(count)``, W being the number of ranks, so that DDP's average
    over ranks gives the mean over the global batch, however uneven the ranks are. Terms in half
    precision, which cannot count beyond 256, are reduced in float32.

    Raises:
        ValueError: no term, a term in both ``terms`` and ``per_sample``, or a term, count or
            ``sample_weight`` of the wrong shape.
    """
    both = set(objectives.terms) & set(objectives.per_sample)
    if both:
        raise ValueError(f"Terms {sorted(both)} stand in both `terms` and `per_sample`.")
    names = [*objectives.terms, *objectives.per_sample]
    if not names:
        raise ValueError("Objectives without any term: the module's `objectives` returned no loss.")
    values, counts = [], []
    for name in names:
        value, count = _local(objectives, name)
        values.append(value)
        counts.append(count)
    weights = [objectives.weights.get(name) for name in names]
    reduce = _reduce_alone if world_size() == 1 else _reduce_over_ranks
    reduced = reduce(names, values, counts, weights, objectives.rows)
    if len(names) > 1 or not _adds_up(objectives, names[0]):
        reduced.normalizer = None
    return reduced


def _reduce_alone(
    names: list[str],
    values: list[Tensor],
    counts: list[Tensor | float],
    weights: list[float | Tensor | None],
    rows: int,
) -> ReducedObjectives:
    """Reduce on one process, where what a step costs beside the network is this function."""
    terms = {}
    for name, value, count in zip(names, values, counts, strict=True):
        if isinstance(count, Tensor):
            count = count.detach().to(value.dtype)
            # a normalizer that is NaN must not switch its term off in silence
            terms[name] = value * torch.where(count == 0, 0.0, 1 / count)
        else:
            terms[name] = value / count if count else value * 0
    total = _total(terms, weights)
    normalizer = counts[0].detach() if isinstance(counts[0], Tensor) else counts[0]
    return ReducedObjectives(terms, total, float(rows), None, normalizer)


def _reduce_over_ranks(
    names: list[str],
    values: list[Tensor],
    counts: list[Tensor | float],
    weights: list[float | Tensor | None],
    rows: int,
) -> ReducedObjectives:
    device, ranks = values[0].device, world_size()
    # counts travel in float64: half precision would round the number of rows
    table = torch.stack(
        [
            count.detach().to(device, torch.float64)
            if isinstance(count, Tensor)
            else torch.full((), count, dtype=torch.float64, device=device)
            for count in [*counts, float(rows)]
        ]
    )
    weighted = [
        value.detach() * (1.0 if weight is None else weight)
        for value, weight in zip(values, weights, strict=True)
    ]
    # a normalizer that is NaN would silently switch its term off
    nonfinite = ~(torch.isfinite(torch.stack(weighted)) & torch.isfinite(table[:-1]))
    packed = torch.cat([table, nonfinite.double()])
    dist.all_reduce(packed)
    table, nonfinite = packed[: len(table)], packed[len(table) :] > 0
    normalizer = table[:-1]
    scales = torch.where(normalizer > 0, ranks / normalizer, 0.0)
    terms = {
        name: value * scale.to(value.dtype)
        for name, value, scale in zip(names, values, scales, strict=True)
    }
    return ReducedObjectives(terms, _total(terms, weights), table[-1], nonfinite, normalizer[0])


def _adds_up(objectives: Objectives, name: str) -> bool:
    """Return whether the normalizer of two batches together is the sum of theirs."""
    count = objectives.count.get(name)
    return name in objectives.per_sample and (count is None or count.ndim == 1)


def _total(terms: dict[str, Tensor], weights: list[float | Tensor | None]) -> Tensor:
    parts = [
        term if weight is None else weight * term
        for term, weight in zip(terms.values(), weights, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _local(objectives: Objectives, name: str) -> tuple[Tensor, Tensor | float]:
    """Return this rank's weighted sum of a term and its normalizer."""
    count = objectives.count.get(name)
    if name in objectives.terms:
        term = at_least_float32(objectives.terms[name])
        if term.ndim != 0:
            raise ValueError(
                f"The term {name!r} has shape {tuple(term.shape)}; a term is a scalar, unreduced "
                "values belong in `per_sample`."
            )
        if count is None:
            rows = objectives.rows
            # a mean over no rows is NaN
            return (term * rows if rows else torch.nan_to_num(term) * 0), float(rows)
        if count.ndim != 0:
            raise ValueError(f"The count of the term {name!r} must be a scalar.")
        # a mean over no rows is NaN, which 0 * NaN would not remove
        return torch.where(count > 0, term * count.to(term.dtype), torch.zeros_like(term)), count
    values = at_least_float32(objectives.per_sample[name])
    if values.ndim != 1:
        raise ValueError(f"The per-sample term {name!r} has shape {tuple(values.shape)}, not (B,).")
    weight = objectives.sample_weight
    if weight is not None and weight.shape != values.shape:
        raise ValueError(
            f"The per-sample term {name!r} has shape {tuple(values.shape)}, but `sample_weight` "
            f"has {tuple(weight.shape)}."
        )
    if count is not None and count.shape not in (values.shape, ()):
        raise ValueError(
            f"The per-sample term {name!r} has shape {tuple(values.shape)}, but its count has "
            f"{tuple(count.shape)}; it must be the same or a scalar."
        )
    if weight is None:
        total = values.sum()
        return total, float(len(values)) if count is None else count.sum(dtype=values.dtype)
    weight = weight.detach().to(values.dtype)
    # a dropped sample may have an infinite loss, and 0 * inf is NaN
    total = torch.where(weight > 0, weight * values, torch.zeros_like(values)).sum()
    if count is None or count.ndim == 1:
        count = (weight if count is None else weight * count).sum()
    return total, count
