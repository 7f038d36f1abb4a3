"""A sample of predictions beside their targets, for a figure of an evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class SamplePairs(Metric):
    """Keeps the first predictions and targets that every rank sees, up to a limit.

    Memory is fixed, and no rank needs to have a row.

    Args:
        num_targets: Number of targets T.
        limit: Number of rows kept per rank.
        **kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> import torch
        >>> pairs = SamplePairs(num_targets=1, limit=2)
        >>> pairs.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.5, 3.5]))
        >>> pairs.compute().squeeze(-1)
        tensor([[1.0000, 1.5000],
                [2.0000, 2.5000]])
    """

    full_state_update = False
    rows: Tensor
    filled: Tensor

    def __init__(self, num_targets: int, limit: int = 2000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # what finds no room goes to a last row, which never counts as filled
        self.add_state("rows", torch.zeros(limit + 1, 2, num_targets), dist_reduce_fx="cat")
        self.add_state("filled", torch.zeros(limit + 1, dtype=torch.bool), dist_reduce_fx="cat")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Keep rows while there is room.

        Args:
            predictions: (B,) or (B, T).
            targets: (B,) or (B, T), as the predictions.
        """
        shape = (-1, self.rows.shape[-1])
        pairs = torch.stack([predictions.reshape(shape), targets.reshape(shape)], dim=1)
        last = len(self.filled) - 1
        places = self.filled.sum() + torch.arange(len(pairs), device=pairs.device)
        places = places.clamp(max=last)
        self.rows[places] = pairs.to(self.rows.dtype)
        self.filled[places] = places < last

    def compute(self) -> Tensor:
        """Return (N, 2, T): predictions and targets of the rows kept, over all ranks."""
        return self.rows[self.filled]
