"""Decoder directions that nearly duplicate one another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 2048


@torch.no_grad()
def largest_cosines(directions: Tensor) -> Tensor:
    """Return for every direction the largest cosine with another one.

    Args:
        directions: (F, d), of any length.

    Returns:
        (F,), at most 1; minus infinity for a single direction.
    """
    unit = F.normalize(directions.detach(), dim=1)
    largest = []
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit.T
        own = torch.arange(len(cosines), device=unit.device)
        cosines[own, start + own] = -torch.inf
        largest.append(cosines.amax(1))
    return torch.cat(largest)


def duplicate_share(directions: Tensor, above: float = 0.9) -> Tensor:
    """Return the share of directions whose cosine with another one is above a limit.

    A budget for every feature can be met with copies, which this shows.

    Args:
        directions: (F, d), the rows of the decoder.
        above: Largest cosine of two directions that are no duplicates.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.decoder_overlap import duplicate_share
        >>> duplicate_share(torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]))
        tensor(0.5000)
    """
    return (largest_cosines(directions) > above).float().mean()
