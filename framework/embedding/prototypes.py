"""Prototypes of classes, and distances to them that have a gradient everywhere."""

from __future__ import annotations

from torch import Tensor

from framework.ops.kernels import squared_distances
from framework.utilities.precision import at_least_float32

EPS = 1e-6
"""What is added to a squared distance before its root is taken."""


def class_prototypes(supports: Tensor) -> Tensor:
    """Return the mean embedding of every class, (..., N, d), in float32 at least.

    Paper: Snell, Swersky, Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
    arXiv:1703.05175.

    Args:
        supports: Embeddings of the K supports of each of N classes, (..., N, K, d).

    Example:
        >>> import torch
        >>> class_prototypes(torch.tensor([[[0.0, 2.0], [2.0, 2.0]]]))
        tensor([[1., 2.]])
    """
    return at_least_float32(supports).mean(-2)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """Return d(u, v) = sqrt(|u - v|^2 + 1e-6) of all pairs, (..., n, m).

    Args:
        one: Vectors (..., n, d).
        other: Vectors (..., m, d).
    """
    return (squared_distances(one, other) + EPS).sqrt()


def prototype_logits(query: Tensor, prototypes: Tensor, temperature: float = 1.0) -> Tensor:
    """Return logits -|q - c|^2 / T of queries, (..., Q, N).

    Args:
        query: Embeddings of queries (..., Q, d).
        prototypes: Prototypes (..., N, d).
        temperature: Temperature T.
    """
    return -squared_distances(query, prototypes) / temperature
