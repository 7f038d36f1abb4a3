"""The mean over ranks of several tensors, in one message per dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum, world_size


def average_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of tensors over ranks, without gradient; what they are on one process.

    Collective: all ranks must call it.

    Args:
        tensors: Tensors of any shapes, the same on every rank; they are not changed.

    Example:
        >>> average_over_ranks([torch.ones(2), torch.tensor(3.0)])
        [tensor([1., 1.]), tensor(3.)]
    """
    ranks = world_size()
    means = [x.detach() for x in tensors]
    if ranks == 1:
        return means
    for kind in {(x.dtype, x.device): None for x in means}:
        places = [i for i, x in enumerate(means) if (x.dtype, x.device) == kind]
        total = all_reduce_sum(torch.cat([means[i].flatten() for i in places])) / ranks
        sizes = [means[i].numel() for i in places]
        for i, part in zip(places, total.split(sizes), strict=True):
            means[i] = part.view(means[i].shape)
    return means
