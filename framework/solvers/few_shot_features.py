"""Features of few-shot tasks as transductive methods take them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.utilities.precision import at_least_float32


def centered_unit_norm(x: Tensor, mean: Tensor) -> Tensor:
    """Return (x - mean) / |x - mean| (CL2N), (..., d), in float32 at least.

    Paper: Wang et al., SimpleShot, 2019, arXiv:1911.04623.

    Args:
        x: Features (..., d).
        mean: Mean (d,) of the features that the backbone was trained on.

    Example:
        >>> centered_unit_norm(torch.tensor([[4.0, 4.0]]), torch.tensor([1.0, 0.0]))
        tensor([[0.6000, 0.8000]])
    """
    return F.normalize(at_least_float32(x) - at_least_float32(mean), dim=-1)


def shift_queries(x: Tensor, supports: int) -> Tensor:
    """Return features whose queries are moved so that their mean is that of the supports.

    It takes for granted that the queries have the classes of the supports in the same shares.

    Args:
        x: Features (..., N, d) of tasks, the supports first.
        supports: Number S of supports.

    Example:
        >>> shift_queries(torch.tensor([[1.0], [3.0], [0.0], [2.0]]), supports=2).flatten()
        tensor([1., 3., 1., 3.])
    """
    support, query = x[..., :supports, :], x[..., supports:, :]
    offset = support.mean(-2, keepdim=True) - query.mean(-2, keepdim=True)
    return torch.cat([support, query + offset], dim=-2)
