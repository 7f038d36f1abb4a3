"""How well classes that are added by a few examples are told apart, alone and among others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.embedding.imprinting import ImprintedClassifier
from framework.embedding.metrics.novel_class_accuracy import NovelClassAccuracy
from framework.embedding.metrics.row_order import first_of_each
from framework.metrics.row_metric import RowMetric
from framework.utilities.checks import check_at_least


class ImprintedEvaluation(RowMetric):
    """Collects embeddings, adds novel classes by their supports, and classifies the queries.

    Rows are ordered by their index, and one that comes twice counts once, so that batches and ranks
    do not matter. ``compute`` returns, for each number K of supports of a class, the values of
    ``NovelClassAccuracy`` as ``joint@K`` and so on; nothing where there is no support or no query.

    Args:
        embedding_dim: Width d of an embedding.
        shots: Numbers K of supports; the first K of each class count.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: A number below 1.

    Example:
        >>> metric = ImprintedEvaluation(embedding_dim=2, shots=[1])
        >>> metric.base_weight = torch.tensor([[1.0, 0.0]])
        >>> points = torch.tensor([[0.1, 0.9], [1.0, 0.2], [0.2, 1.0]])
        >>> label, shot = torch.tensor([1, 0, 1]), torch.tensor([1, 0, 0])
        >>> metric.update(points, label, index=torch.arange(3), shot=shot)
        >>> sorted(metric.compute())
        ['disjoint@1', 'harmonic_mean@1', 'joint@1', 'joint_on_base@1', 'joint_on_novel@1']
    """

    base_weight: Tensor
    """Vectors of the trained classes (C, d), which have the labels 0 to C - 1; set it first."""

    def __init__(self, embedding_dim: int, shots: Sequence[int] = (1, 5), **kwargs: Any) -> None:
        check_at_least(1, embedding_dim=embedding_dim, shots=min(shots, default=0))
        whole = torch.zeros(0, dtype=torch.int64)
        empty = {
            "embedding": torch.zeros(0, embedding_dim),
            "label": whole,
            "index": whole,
            "shot": whole,
        }
        super().__init__(empty, **kwargs)
        self.shots = list(shots)

    def update(self, embedding: Tensor, label: Tensor, index: Tensor, shot: Tensor) -> None:
        """Add a batch of B images.

        Args:
            embedding: (B, d), of any norm.
            label: Class of each, (B,) int64: the trained ones, then the novel ones.
            index: Position of each in the set, (B,) int64.
            shot: Number 1, 2, ... of a support in its class, 0 of a query, (B,) int64.
        """
        rows = {
            "embedding": embedding.detach().float(),
            "label": label,
            "index": index,
            "shot": shot,
        }
        for name, value in rows.items():
            getattr(self, name).append(value)

    def compute(self) -> dict[str, Tensor]:
        """Return the shares by name."""
        names = ("embedding", "label", "index", "shot")
        embedding, label, index, shot = (self.joined(name, self.device) for name in names)
        rows = first_of_each(index)
        embedding, label, shot = embedding[rows], label[rows], shot[rows]
        num_base = len(self.base_weight)
        values: dict[str, Tensor] = {}
        for number in self.shots:
            is_support = (shot > 0) & (shot <= number)
            novel = label[is_support].unique()
            is_query = (shot == 0) & (label >= 0)
            is_query &= (label < num_base) | torch.isin(label, novel)
            if not len(novel) or not is_query.any():
                continue
            classifier = ImprintedClassifier(self.base_weight)
            for one in novel.tolist():
                classifier.add_class(embedding[is_support & (label == one)], str(one))
            logits = classifier(embedding[is_query])
            # a set that lacks classes numbers the others without gaps
            found = torch.cat([torch.arange(num_base, device=label.device), novel])
            column = torch.searchsorted(found, label[is_query])
            # the rows are those of all ranks already
            accuracy = NovelClassAccuracy(num_base, sync_on_compute=False).to(self.device)
            accuracy.update(logits, column)
            values |= {f"{name}@{number}": value for name, value in accuracy.compute().items()}
        return values
