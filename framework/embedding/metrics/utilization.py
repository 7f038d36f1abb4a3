"""Utilization: how far the examples of a test are from those of the training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.metrics.row_metric import RowMetric
from framework.ops.cosines import nearest_neighbors, unit
from framework.utilities.checks import check_at_least


def utilization(query: Tensor, reference: Tensor, squared: bool = True) -> Tensor:
    """Return the mean distance of each query to the nearest reference, on the unit sphere.

    Lower is better: the region of the queries was explored. Further references never make it
    larger. The paper does not say whether distances are squared.

    Paper: It Takes Two to Tango: Mixup for Deep Metric Learning. arXiv:2106.04990

    Args:
        query: Embeddings (Q, d), of any length, such as those of test images.
        reference: Embeddings (N, d), such as those of training images and mixtures of them.
        squared: Whether the distances are squared.

    Returns:
        A scalar in [0, 4], or [0, 2] where it is not squared; NaN without a query or a reference.

    Example:
        >>> import torch
        >>> reference = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])
        >>> utilization(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), reference)
        tensor(0.6000)
    """
    query, reference = unit(query), unit(reference)
    if not len(query) or not len(reference):
        return query.new_full((), torch.nan)
    distances = torch.cat(
        [
            (query[near.rows] - reference[near.found[:, 0]]).square().sum(1)
            for near in nearest_neighbors(query, reference, k=1)
        ]
    )
    return (distances if squared else distances.sqrt()).mean()


class Utilization(RowMetric):
    """Mean distance of test embeddings to the nearest training embedding, over batches and ranks.

    See ``utilization``.

    Args:
        embedding_dim: Width d of an embedding.
        squared: Whether the distances are squared.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``embedding_dim`` is below 1.

    Example:
        >>> import torch
        >>> metric = Utilization(embedding_dim=2)
        >>> metric.update(torch.tensor([[0.8, 0.6], [-1.0, 0.0]]), is_reference=True)
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), is_reference=False)
        >>> metric.compute()
        tensor(0.6000)
    """

    query: list[Tensor]
    reference: list[Tensor]

    def __init__(self, embedding_dim: int, squared: bool = True, **kwargs: Any) -> None:
        check_at_least(1, embedding_dim=embedding_dim)
        nothing = torch.zeros(0, embedding_dim)
        super().__init__({"query": nothing, "reference": nothing}, **kwargs)
        self.squared = squared

    def update(self, embedding: Tensor, is_reference: bool) -> None:
        """Add a batch of B embeddings.

        Args:
            embedding: (B, d), of any length.
            is_reference: Whether these are references, such as training images or mixtures of
                them, rather than queries.
        """
        (self.reference if is_reference else self.query).append(embedding.detach().float())

    def compute(self) -> Tensor:
        """Return the mean distance."""
        query, reference = (self.joined(name, self.device) for name in ("query", "reference"))
        return utilization(query, reference, self.squared)
