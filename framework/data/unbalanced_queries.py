"""How many queries of each class an episode has where classes are not equally frequent."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.checks import check_positive


def dirichlet_counts(
    total: int, available: Tensor, concentration: float, generator: torch.Generator
) -> Tensor:
    """Return how many of ``total`` queries each of N classes has, (N,) int64.

    Their shares are drawn from a symmetric Dirichlet distribution, and the numbers are the shares
    of ``total``, rounded so that they add up to it. A class gives no more than it has; what it
    lacks is shared out among the others in the same way.

    Paper: Veilleux et al., Realistic Evaluation of Transductive Few-Shot Learning, NeurIPS 2021,
    arXiv:2204.11181, where the concentration is 2.

    Args:
        total: Number of queries.
        available: Images of each class that may be queries, (N,) int64, ``total`` or more in all.
        concentration: Concentration of the distribution; the larger, the more equal the shares.
        generator: Generator of the shares.

    Raises:
        ValueError: ``concentration`` is not above 0, or there are too few images.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> dirichlet_counts(15, torch.tensor([15, 15, 1]), 2.0, generator)
        tensor([10,  4,  1])
    """
    from scipy.special import gammaincinv

    check_positive(concentration=concentration)
    if int(available.sum()) < total:
        raise ValueError(f"{total} queries were asked for of {int(available.sum())} images.")
    uniform = torch.rand(len(available), generator=generator, dtype=torch.float64)
    # by the inverse of its distribution, as torch and NumPy may draw otherwise in another version
    gamma = torch.from_numpy(gammaincinv(concentration, uniform.numpy()))
    weight = gamma.clamp(min=torch.finfo(torch.float64).tiny)
    count = torch.zeros_like(available)
    while (left := total - int(count.sum())) > 0:
        room = available - count
        open_weight = weight * (room > 0)
        wanted = open_weight / open_weight.sum() * left
        whole = wanted.floor()
        # the largest remainders, of equal ones the first class's
        rest = left - int(whole.sum())
        first = (wanted - whole).argsort(descending=True, stable=True)[:rest]
        whole[first] += 1
        count += torch.minimum(whole.long(), room)
    return count
