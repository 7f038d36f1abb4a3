"""Alignment and uniformity of embeddings on the unit sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.ops.cosines import full_precision, row_blocks, unit
from framework.utilities.checks import check_positive


def alignment(embedding: Tensor, label: Tensor) -> Tensor:
    """Return the mean squared distance of all pairs of one class; lower is better.

    Takes memory for the embeddings only.

    Paper: Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere. arXiv:2005.10242

    Args:
        embedding: (N, d), of any length.
        label: Classes (N,) int64.

    Returns:
        A scalar in [0, 4]; NaN without such a pair.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])
        >>> alignment(x, torch.tensor([0, 0, 1, 1]))
        tensor(0.4000)
    """
    points = unit(embedding)
    if not len(points):
        return points.new_full((), torch.nan)
    _, place, count = label.unique(return_inverse=True, return_counts=True)
    mean = points.new_zeros(len(count), points.shape[1], dtype=torch.float64)
    mean = mean.index_add(0, place, points.double()) / count[:, None]
    # the squared distances of all pairs of n points sum to n times those from their mean
    spread = mean.new_zeros(len(count))
    spread = spread.index_add(0, place, (points - mean[place]).square().sum(1))
    pairs = (count * (count - 1)).sum() / 2
    return ((count * spread).sum() / pairs).to(points.dtype)


def uniformity(embedding: Tensor, t: float = 2.0) -> Tensor:
    """Return ``log mean e^{-t d^2}`` over all pairs, d their distance; lower is better.

    Paper: Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere. arXiv:2005.10242

    Args:
        embedding: (N, d), of any length.
        t: Factor of the squared distances.

    Returns:
        A scalar in [-4 t, 0]; NaN with fewer than two embeddings.

    Raises:
        ValueError: ``t`` is not positive.

    Example:
        >>> import torch
        >>> uniformity(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]]))
        tensor(-1.6617)
    """
    check_positive(t=t)
    points = unit(embedding)
    count = len(points)
    if count < 2:
        return points.new_full((), torch.nan)
    total = points.new_zeros((), dtype=torch.float64)
    for rows in row_blocks(count, count):
        with full_precision(points.device):
            cosines = points[rows] @ points.T
        weight = (2 * t * (cosines - 1)).exp()
        weight.diagonal(rows.start).zero_()  # a point makes no pair with itself
        total += weight.sum(dtype=torch.float64)
    return (total.log() - math.log(count * (count - 1))).to(points.dtype)
