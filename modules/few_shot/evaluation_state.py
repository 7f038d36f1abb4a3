"""What the evaluation of episodes learns in training."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.precision import FullPrecision


class EvaluationState(FullPrecision):
    """The mean of the base features and the weights lambda of solvers, the same on every rank.

    Args:
        embedding_dim: Width d of a feature.
        num_solvers: Number of solvers that have a lambda.
        lam: Lambda before one is chosen.

    Example:
        >>> EvaluationState(4, num_solvers=2, lam=0.5).lam.tolist()
        [0.5, 0.5]
    """

    mean: Tensor
    lam: Tensor

    def __init__(self, embedding_dim: int, num_solvers: int, lam: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("lam", torch.full((num_solvers,), lam))
