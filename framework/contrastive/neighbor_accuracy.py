"""Accuracy of the votes of nearest neighbors, which needs no training on the features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.contrastive.bank_accuracy import BankAccuracy
from framework.contrastive.checks import check_features
from framework.ops.cosines import nearest_neighbors, unit
from framework.utilities.checks import check_at_least, check_positive


def neighbor_scores(
    query: Tensor,
    bank: Tensor,
    label: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Return what the k nearest rows of a bank vote for, (Q, K) float32 in [0, 1].

    A neighbor's vote for its class weighs exp(cosine / temperature); the votes of a query sum to 1.
    Cosines are computed for some queries at a time, so that memory does not grow with Q x N. Of
    rows that are equally near the first ones count.

    Paper: Wu et al., Unsupervised Feature Learning via Non-Parametric Instance Discrimination,
    CVPR 2018, arXiv:1805.01978, section 3.4, there with k = 200 on ImageNet.

    Args:
        query: Features (Q, D), of any norm.
        bank: Features (N, D) of the rows that vote.
        label: Their classes (N,) int64, in 0..K-1.
        num_classes: Number K of classes.
        k: Number of neighbors; all rows where there are fewer.
        temperature: Temperature of the weights; None for equal votes.

    Raises:
        ValueError: ``k`` or ``temperature`` out of range, other shapes, or an empty bank.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> label = torch.tensor([0, 0, 1])
        >>> neighbor_scores(torch.tensor([[1.0, 0.1]]), bank, label, 2, k=3, temperature=None)
        tensor([[0.6667, 0.3333]])
    """
    check_at_least(1, k=k, num_classes=num_classes)
    check_positive(temperature=temperature)
    check_features(bank, label, num_classes)
    k = min(k, len(bank))
    scores = torch.zeros(len(query), num_classes, dtype=torch.float32, device=query.device)
    among = unit(bank.to(query.device))
    for part in nearest_neighbors(unit(query).to(among.dtype), among, k):
        logits = torch.zeros_like(part.similarity)
        if temperature is not None:
            logits = part.similarity / temperature
        votes = label.to(query.device)[part.found]
        scores[part.rows].scatter_add_(1, votes, logits.softmax(1).float())
    return scores


class NeighborAccuracy(BankAccuracy):
    """Share of samples whose class the nearest rows of a bank vote for, see ``neighbor_scores``.

    It needs ``use_bank`` before the first batch, see ``BankAccuracy``.

    Args:
        num_classes: Number K of classes.
        k: Number of neighbors.
        temperature: Temperature of the votes' weights; None for equal votes.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``num_classes`` or ``k`` below 1, or a ``temperature`` that is not positive.

    Example:
        >>> metric = NeighborAccuracy(num_classes=2, k=1)
        >>> metric.use_bank(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[0.9, 0.2], [0.8, 0.1]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(
        self, num_classes: int, k: int = 20, temperature: float | None = 0.07, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_at_least(1, k=k)
        check_positive(temperature=temperature)
        self.k = k
        self.temperature = temperature
        self.bank: tuple[Tensor, Tensor]

    def learn(self, feature: Tensor, label: Tensor) -> None:
        """Let these rows vote."""
        check_features(feature, label, self.num_classes)
        self.bank = (feature.detach(), label)

    def scores(self, feature: Tensor) -> Tensor:
        """Return what the nearest rows vote for, (B, K)."""
        return neighbor_scores(feature, *self.bank, self.num_classes, self.k, self.temperature)
