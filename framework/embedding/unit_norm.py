"""Rows that a constraint keeps at norm 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def project_rows_(weight: Tensor) -> None:
    """Divide each row of a matrix by its norm, in place; rows of zeros stay.

    Called after each optimizer step, it is the projection on unit vectors, which to first order in
    the step equals normalizing them in each forward.

    Args:
        weight: Matrix (C, d), such as the class vectors of a linear layer.

    Example:
        >>> weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> project_rows_(weight)
        >>> weight
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    weight.copy_(F.normalize(weight))
