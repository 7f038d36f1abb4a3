"""The effective rank of features: how many directions they spread over."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.metrics.feature_moments import FeatureMoments


def effective_rank_of(singular_values: Tensor) -> Tensor:
    """Return the exponential of the entropy of singular values that are scaled to sum 1.

    Args:
        singular_values: Singular values (K,), not negative; of all zeros the effective rank is 0.

    Example:
        >>> effective_rank_of(torch.tensor([3.0, 2.0, 1.0]))
        tensor(2.7495)
    """
    total = singular_values.sum()
    share = singular_values / total
    entropy = -torch.special.xlogy(share, share).sum()
    return entropy.exp().where(total > 0, 0.0)


class EffectiveRank(FeatureMoments):
    r"""Effective rank of features over all batches and ranks, between 1 and their number.

    :math:`\exp(-\sum_i p_i \ln p_i)` with :math:`p_i = \sigma_i / \sum_j \sigma_j` of the singular
    values of the *centered* features: K equal ones give K, features on a line 1, and rows that are
    all the same 0. As in Roy and Vetterli 2007, of the features and not of their covariance, whose
    singular values are the squares; the mean, which would outweigh all else, is taken out
    (arXiv:2507.12224). NaN where there is no row.

    Shapes: features (B, K).

    Args:
        num_features: Number K of features of a row.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_features`` below 1, or features of another shape.

    Example:
        >>> rank = EffectiveRank(num_features=2)
        >>> rank.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> rank.compute()
        tensor(2.)
    """

    def compute(self) -> Tensor:
        """Return the effective rank, NaN without any row."""
        rank = effective_rank_of(self.singular_values())
        return rank.where(self.rows > 0, torch.nan).float()
