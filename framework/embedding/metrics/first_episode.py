"""One episode of an evaluation, kept to be looked at."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.metrics.row_metric import RowMetric


class Episode(NamedTuple):
    """Features of an episode's rows, and their classes.

    Args:
        features: Features (N, d).
        label: Classes (N,) int64.
        predicted: Classes that were found (N,) int64; supports have their own.
        supports: Number S of supports, the first rows.
    """

    features: Tensor
    label: Tensor
    predicted: Tensor
    supports: int


class FirstEpisode(RowMetric):
    """Keeps the episode of number 0, so that every evaluation shows the same one.

    ``compute`` returns it as ``episode``, and nothing where there was none.

    Args:
        embedding_dim: Width d of a feature.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = FirstEpisode(embedding_dim=2)
        >>> label = torch.tensor([[0, 1, 0, 1]])
        >>> metric.update(torch.rand(1, 4, 2), label, label[:, 2:], torch.tensor([0]))
        >>> metric.compute()["episode"].supports
        2
    """

    def __init__(self, embedding_dim: int, **kwargs: Any) -> None:
        # the features, then the class, the found one and whether it is a support
        super().__init__({"rows": torch.empty(0, embedding_dim + 3)}, **kwargs)

    def update(self, features: Tensor, label: Tensor, predicted: Tensor, index: Tensor) -> None:
        """Look for the episode among others.

        Args:
            features: Features (E, N, d), supports first.
            label: Classes (E, N) int64.
            predicted: Classes that were found of the queries (E, Q) int64.
            index: Numbers of the episodes (E,) int64.
        """
        if self.rows:
            return
        supports = label.shape[1] - predicted.shape[1]
        found = torch.cat([label[:, :supports], predicted], dim=1)
        support = (torch.arange(label.shape[1], device=label.device) < supports).expand_as(label)
        facts = torch.stack([label, found, support], dim=-1).to(features.dtype)
        rows = torch.cat([features, facts], dim=-1).detach().float()
        kept = rows[index == 0][:1].flatten(0, 1)
        if len(kept):
            self.rows.append(kept)  # type: ignore[operator, union-attr]

    def compute(self) -> dict[str, Episode]:
        """Return the episode."""
        rows = self.joined("rows")
        if not len(rows):
            return {}
        facts = rows[:, -3:].long()
        supports = int(facts[:, 2].sum())
        return {"episode": Episode(rows[:, :-3], facts[:, 0], facts[:, 1], supports)}
