"""The stable rank of features: their energy in units of that of the strongest direction."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.metrics.feature_moments import FeatureMoments


def stable_rank_of(singular_values: Tensor) -> Tensor:
    """Return the sum of squares of singular values over the largest square.

    Args:
        singular_values: Singular values (K,), not negative; of all zeros the stable rank is 0.

    Example:
        >>> stable_rank_of(torch.tensor([3.0, 2.0, 1.0]))
        tensor(1.5556)
    """
    largest = singular_values.max()
    return (singular_values / largest).square().sum().where(largest > 0, 0.0)


def energy_rank_of(singular_values: Tensor, share: float = 0.99) -> Tensor:
    """Return how many of the largest singular values hold a share of the sum of squares.

    Args:
        singular_values: Singular values (K,), not negative; of all zeros the count is 0.
        share: Share of the sum of squares, in (0, 1].

    Example:
        >>> energy_rank_of(torch.tensor([3.0, 2.0, 1.0]), 0.9)
        tensor(2)
    """
    energy = singular_values.double().square().sort(descending=True).values.cumsum(0)
    # a rounded sum may lie above the share that it is compared with
    enough = energy >= share * energy[-1] * (1 - 1e-12)
    first = (~enough).sum() + 1
    return first.where(energy[-1] > 0, 0)


class StableRank(FeatureMoments):
    r"""Stable rank of features over all batches and ranks, between 1 and their number.

    :math:`\lVert Z \rVert_F^2 / \lVert Z \rVert_2^2` of the *centered* features Z, as in
    arXiv:2507.12224: it counts directions by their energy, so that weak ones hardly count, where
    ``EffectiveRank`` counts them more evenly. Rows that are all the same have 0; NaN where there is
    no row.

    Shapes: features (B, K).

    Args:
        num_features: Number K of features of a row.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_features`` below 1, or features of another shape.

    Example:
        >>> rank = StableRank(num_features=2)
        >>> rank.update(torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> rank.compute()
        tensor(1.2500)
    """

    def compute(self) -> Tensor:
        """Return the stable rank, NaN without any row."""
        rank = stable_rank_of(self.singular_values())
        return rank.where(self.rows > 0, torch.nan).float()
