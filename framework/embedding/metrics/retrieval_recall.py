"""Retrieval metrics of images that are embedded a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.embedding.metrics.retrieval import retrieval_scores, retrieval_values
from framework.embedding.metrics.row_order import first_of_each
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least


class RetrievalRecallAtK(RowMetric):
    """Recall@K, R-Precision and MAP@R by cosine, of each image among the others or in a gallery.

    An image that comes twice counts once, so that batches and ranks do not matter. Images whose
    class has no other image are no queries; ``excluded_queries`` says how many, where there are
    some.

    Args:
        embedding_dim: Width d of an embedding.
        ks: Numbers K of nearest images.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``embedding_dim`` or a K below 1.

    Example:
        >>> metric = RetrievalRecallAtK(embedding_dim=2)
        >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> metric.update(points, torch.tensor([0, 0, 1]), index=torch.arange(3))
        >>> metric.compute()["recall@1"].item(), metric.compute()["excluded_queries"].item()
        (1.0, 1.0)
    """

    def __init__(self, embedding_dim: int, ks: Sequence[int] = (1,), **kwargs: Any) -> None:
        check_at_least(1, embedding_dim=embedding_dim)
        for k in ks:
            check_at_least(1, ks=k)
        whole = torch.zeros(0, dtype=torch.int64)
        empty = {
            "embedding": torch.zeros(0, embedding_dim),
            "label": whole,
            "index": whole,
            "is_gallery": torch.zeros(0, dtype=torch.bool),
        }
        super().__init__(empty, **kwargs)
        self.ks = list(ks)

    def update(
        self, embedding: Tensor, label: Tensor, index: Tensor, is_gallery: Tensor | None = None
    ) -> None:
        """Add a batch of B images.

        Args:
            embedding: (B, d), of any norm.
            label: Class of each image, (B,) int64.
            index: Number of each image, (B,) int64.
            is_gallery: Whether each is found rather than a query, (B,) bool, where the two differ,
                as in In-Shop; then in every batch.
        """
        if is_gallery is None:
            is_gallery = torch.zeros_like(label, dtype=torch.bool)
        rows = {
            "embedding": embedding.detach().float(),
            "label": label,
            "index": index,
            "is_gallery": is_gallery,
        }
        for name, value in rows.items():
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name; without queries none."""
        names = ("embedding", "label", "index", "is_gallery")
        states = [self.joined(name, self.device) for name in names]
        rows = first_of_each(states[2])
        embedding, label, _, is_gallery = (state[rows] for state in states)
        if not bool(is_gallery.any()):
            return retrieval_values(retrieval_scores(embedding, label, self.ks), self.ks)
        query, found = ((embedding[part], label[part]) for part in (~is_gallery, is_gallery))
        return retrieval_values(retrieval_scores(*query, self.ks, *found), self.ks)
