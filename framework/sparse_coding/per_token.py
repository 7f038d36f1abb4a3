"""What metrics of reconstructed tokens share: a mean over tokens, and a ratio of two sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from framework.sparse_coding.fvu import pair_of_rows


class MeanOverTokens(Metric):
    """Mean over tokens of one number each, from sums in float64 over all batches and ranks.

    A subclass writes ``per_token``.
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def per_token(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Return the number of every row, (B,), of two tensors (B, d)."""
        raise NotImplementedError

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        reconstruction, target = pair_of_rows(self, reconstruction, target)
        self.total += self.per_token(reconstruction, target).sum()
        self.rows += len(target)

    def compute(self) -> Tensor:
        """Return the mean, NaN without any row."""
        return (self.total / self.rows).float()


class RatioOfSums(Metric):
    """Ratio of two sums over tokens, in float64 over all batches and ranks.

    A subclass writes ``parts``.
    """

    full_state_update = False
    above: Tensor
    below: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("above", "below"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def parts(self, reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is summed above and below the line, of two tensors (B, d)."""
        raise NotImplementedError

    def update(self, reconstruction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, d).
            target: (B, d), what is reconstructed.
        """
        above, below = self.parts(*pair_of_rows(self, reconstruction, target))
        self.above += above.sum()
        self.below += below.sum()

    def compute(self) -> Tensor:
        """Return the ratio, NaN without any row."""
        return (self.above / self.below).float()
