"""A fixed sample of codes with their clusters and labels, for a figure of an evaluation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.utilities.checks import check_at_least

# 2^32 divided by the golden ratio: its multiples modulo 2^32 differ, and those below any bound are
# multiples by numbers whose gaps take three values at most
SPREAD, MODULUS = 2_654_435_769, 2**32


class EmbeddingSnapshot(NamedTuple):
    """Codes and what is known of their samples, n rows."""

    code: Tensor
    """(n, D) float32."""
    cluster: Tensor
    """(n,) int64."""
    label: Tensor
    """(n,) int64, -1 where it is not known."""


class EmbeddingSample(Metric):
    """Keeps the codes of up to ``limit`` samples, the same in every epoch.

    Which ones depends on nothing but their indices, so that batches and ranks do not matter. They
    lie evenly over the data set, as one that is sorted by class would otherwise show few classes.
    Memory is fixed, and no rank needs to have a row.

    Args:
        dim: Width D of an embedding.
        limit: Number of samples kept.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: ``dim`` or ``limit`` below 1.

    Example:
        >>> import torch
        >>> from framework.metrics.embedding_sample import EmbeddingSample
        >>> sample = EmbeddingSample(dim=1, limit=3)
        >>> code, cluster = torch.arange(100.0)[:, None], torch.zeros(100, dtype=torch.int64)
        >>> sample.update(code, cluster, index=torch.arange(100))
        >>> sample.compute().code.flatten()
        tensor([ 0., 89., 34.])
    """

    # forward would otherwise merge states by a rule that is not that of the selection
    full_state_update = True
    is_differentiable = False
    code: Tensor
    cluster: Tensor
    label: Tensor
    index: Tensor

    def __init__(self, dim: int, limit: int = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, dim=dim, limit=limit)
        # an empty place has index -1 and comes after every sample; ranks are stacked
        empty = torch.full((limit,), -1, dtype=torch.int64)
        self.add_state("code", torch.zeros(limit, dim), dist_reduce_fx=None)
        self.add_state("cluster", empty, dist_reduce_fx=None)
        self.add_state("label", empty, dist_reduce_fx=None)
        self.add_state("index", empty, dist_reduce_fx=None)

    def update(
        self, code: Tensor, cluster: Tensor, index: Tensor, label: Tensor | None = None
    ) -> None:
        """Keep those rows of a batch that belong to the sample.

        Args:
            code: (B, D).
            cluster: (B,) int64.
            index: (B,) int64 stable number of the sample, in 0..2^31-1.
            label: (B,) int64, where the data has labels.
        """
        label = torch.full_like(cluster, -1) if label is None else label
        rows = (code, cluster, label, index)
        kept = (self.code, self.cluster, self.label, self.index)
        self.code, self.cluster, self.label, self.index = self._first(
            *(torch.cat([old, new.to(old)]) for old, new in zip(kept, rows, strict=True))
        )

    def compute(self) -> EmbeddingSnapshot:
        """Return the sample over all ranks, in an order that has nothing to do with the data."""
        states = (self.code, self.cluster, self.label, self.index)
        if self.index.ndim == 2:
            states = self._first(*(state.flatten(0, 1) for state in states))
        code, cluster, label, index = states
        filled = index >= 0
        return EmbeddingSnapshot(code[filled], cluster[filled], label[filled])

    def _first(
        self, code: Tensor, cluster: Tensor, label: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        key = torch.where(index >= 0, index * SPREAD % MODULUS, MODULUS)
        chosen = key.argsort(stable=True)[: self.index.shape[-1]]
        return code[chosen], cluster[chosen], label[chosen], index[chosen]
