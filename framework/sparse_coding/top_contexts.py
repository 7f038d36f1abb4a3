"""The contexts in which each feature is most active."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least


class TopContexts(Metric):
    """Keeps, for every feature, the contexts with its largest activations.

    A context counts once, with its largest activation; of equal ones the earlier context is kept.
    What is kept is exact, however the tokens of a context fall on batches and ranks. Memory is
    F * ``limit`` pairs of numbers.

    Args:
        num_features: Number of features F.
        limit: Number of contexts kept per feature.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: an argument below 1.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.top_contexts import TopContexts
        >>> top = TopContexts(num_features=2, limit=2)
        >>> top.update(
        ...     torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 0]), torch.tensor([7, 7, 5])
        ... )
        >>> values, contexts = top.compute()
        >>> contexts
        tensor([[ 7,  5],
                [-1, -1]])
    """

    full_state_update = False
    values: Tensor
    contexts: Tensor

    def __init__(self, num_features: int, limit: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, num_features=num_features, limit=limit)
        self.num_features = num_features
        self.limit = limit
        shape = (num_features, limit)
        self.add_state("values", torch.zeros(shape), dist_reduce_fx="cat")
        nothing = torch.full(shape, -1, dtype=torch.int64)
        self.add_state("contexts", nothing, dist_reduce_fx="cat")

    def update(self, values: Tensor, features: Tensor, contexts: Tensor) -> None:
        """Add the activations of a batch.

        Args:
            values: (n,) positive.
            features: (n,) int64 feature of each value, in 0..F-1.
            contexts: (n,) int64 context of the token of each value, at least 0.
        """
        self.values, self.contexts = self._best(
            torch.cat([self.values.flatten(), values.float()]),
            torch.cat([self._features(1), features]),
            torch.cat([self.contexts.flatten(), contexts]),
        )

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return activations and contexts, (F, limit) each, largest first; -1 for no context."""
        ranks = self.values.numel() // (self.num_features * self.limit)
        features = self._features(ranks)
        return self._best(self.values.flatten(), features, self.contexts.flatten())

    def _features(self, ranks: int) -> Tensor:
        features = torch.arange(self.num_features, device=self.values.device)
        return features.repeat_interleave(self.limit).repeat(ranks)

    def _best(self, values: Tensor, features: Tensor, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the table of the best entries among these, (F, limit) each."""
        there = contexts >= 0
        values, features, contexts = values[there], features[there], contexts[there]
        width = int(contexts.max()) + 1 if len(contexts) else 1
        keys, place = torch.unique(features * width + contexts, return_inverse=True)
        largest = values.new_zeros(len(keys)).scatter_reduce_(0, place, values, "amax")
        features, contexts = keys // width, keys % width
        # by feature, then by activation, then by context, the order of the keys
        order = largest.argsort(descending=True, stable=True)
        order = order[features[order].argsort(stable=True)]
        largest, features, contexts = largest[order], features[order], contexts[order]
        counts = torch.bincount(features, minlength=self.num_features)
        first = counts.cumsum(0) - counts
        slot = torch.arange(len(features), device=features.device) - first[features]
        kept = slot < self.limit
        best = values.new_zeros(self.num_features, self.limit)
        best[features[kept], slot[kept]] = largest[kept]
        found = contexts.new_full((self.num_features, self.limit), -1)
        found[features[kept], slot[kept]] = contexts[kept]
        return best, found
