"""Exponential moving averages of many tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor


def why_too_coarse(tensors: Iterable[Tensor], decay: float) -> str | None:
    """Return why tensors would round away what an average moves by in a step, or None.

    Args:
        tensors: Tensors to be averaged.
        decay: Share of the average that a step keeps.

    Example:
        >>> why_too_coarse([torch.zeros(1)], decay=0.999)
        >>> why_too_coarse([torch.zeros(1, dtype=torch.bfloat16)], decay=0.999)[:36]
        'Weights in torch.bfloat16 are too co'
    """
    for dtype in {tensor.dtype for tensor in tensors if tensor.is_floating_point()}:
        if 1 - decay < torch.finfo(dtype).eps:
            return (
                f"Weights in {dtype} are too coarse for an average with decay={decay}: keep "
                "them in float32, as precision bf16-mixed does."
            )
    return None


def infinite_ones(tensors: Iterable[Tensor]) -> frozenset[int]:
    """Return which tensors hold an infinity, such as a mask of attention: none has an average.

    Looks at values, which makes a GPU wait: call it once, at the start.

    Args:
        tensors: Tensors to be averaged.

    Example:
        >>> infinite_ones([torch.zeros(2), torch.tensor([0.0, -torch.inf])])
        frozenset({1})
    """
    return frozenset(n for n, tensor in enumerate(tensors) if bool(tensor.isinf().any()))


@torch.no_grad()
def move_average(
    averaged: Iterable[Tensor],
    latest: Iterable[Tensor],
    decay: float,
    copied: Collection[int] = (),
) -> None:
    """Set averages to ``decay * average + (1 - decay) * latest``, in place.

    Integers, such as counters, have no average and are copied; with a decay of 0 all are. Nothing
    waits for a GPU.

    Args:
        averaged: Averages.
        latest: As many tensors of the same shapes.
        decay: Share of the average that is kept, in [0, 1].
        copied: Places of further tensors without an average, see ``infinite_ones``.

    Example:
        >>> average = [torch.tensor([1.0]), torch.tensor(3)]
        >>> move_average(average, [torch.tensor([5.0]), torch.tensor(4)], decay=0.75)
        >>> average
        [tensor([2.]), tensor(4)]
    """
    averages: tuple[list[Tensor], list[Tensor]] = [], []
    copies: tuple[list[Tensor], list[Tensor]] = [], []
    for place, (mine, theirs) in enumerate(zip(averaged, latest, strict=True)):
        is_number = mine.is_floating_point() or mine.is_complex()
        own, new = averages if decay > 0 and is_number and place not in copied else copies
        own.append(mine)
        new.append(theirs)
    # not torch's AveragedModel, whose counter makes a GPU wait at every step
    if averages[0]:
        torch._foreach_lerp_(*averages, 1 - decay)
    if copies[0]:
        torch._foreach_copy_(*copies)
