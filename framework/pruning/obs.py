"""Optimal Brain Surgeon: weights leave, and the others move to make up for them."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.optim.empirical_fisher import EmpiricalFisherInverse


def saliencies(weights: Tensor, fisher: EmpiricalFisherInverse) -> Tensor:
    """Return by how much the loss grows when a weight is removed: ``w^2 / (2 [F^-1]_pp)``.

    To second order, the others moving to their best.

    Shapes: weights (d,); returns (d,) float64.

    Paper: Hassibi and Stork, Second order derivatives for network pruning, NIPS 1992; with the
    empirical Fisher matrix: arXiv:2107.03356.
    """
    return weights.double().square() / (2 * fisher.diag())


def remove_weights(
    weights: Tensor, fisher: EmpiricalFisherInverse, count: int
) -> tuple[Tensor, Tensor]:
    """Remove the weights of least saliency, all at once, and let the others make up for them.

    The others move by ``F^-1 t`` with ``t_p = -w_p / [F^-1]_pp`` for those that leave, which takes
    each removal for the only one: remove few at a time, with new gradients in between.

    Shapes: weights (d,).

    Paper: Frantar, Kurtic and Alistarh, arXiv:2107.03356, section 3.

    Args:
        weights: Weights that are left so far; they are not changed.
        fisher: Inverse Fisher matrix of these weights.
        count: Number of weights that leave.

    Returns:
        The weights, exactly 0 where one left, and a mask of those that did.

    Example:
        >>> fisher = EmpiricalFisherInverse(m=2, d=3, damping=0.1)
        >>> for gradient in ([1.0, 0.0, 2.0], [0.0, 1.0, -1.0]):
        ...     _ = fisher.push(torch.tensor(gradient))
        >>> remove_weights(torch.tensor([0.5, -0.2, 0.1]), fisher, count=1)
        (tensor([ 0.6667, -0.2833,  0.0000]), tensor([False, False,  True]))
    """
    diagonal = fisher.diag()
    values = weights.double()
    # stable, so that ranks and devices agree on ties
    order = (values.square() / diagonal).sort(stable=True).indices[:count]
    leaving = torch.zeros_like(values, dtype=torch.bool).index_fill_(0, order, True)
    moved = values + fisher.ihvp(torch.where(leaving, -values / diagonal, 0.0))
    return moved.masked_fill_(leaving, 0.0).to(weights.dtype), leaving
