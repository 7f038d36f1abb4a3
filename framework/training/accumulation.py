"""The gradient of several accumulated batches is that of the union of their rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter


class AccumulationWindow:
    """Weighs the batches between two optimizer steps by their rows.

    Lightning divides every loss by the number of batches of a full window, so that a smaller batch
    counts as much as a full one, and a window that the epoch's end cuts short counts too little.
    Terms that are normalized by something else than rows are averaged by rows as well. Where all
    batches are equal and the window is full, nothing changes by a single bit.

    Example:
        >>> window = AccumulationWindow()
        >>> [window.add(rows, batch) for batch, rows in enumerate([4.0, 2.0])]
        [1.0, 0.5]
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.tensor([1.0]) / 3 + torch.tensor([0.5]) * 0.5 / 3
        >>> window.close([weight], batches=3)
        >>> weight.grad  # (4 * 1.0 + 2 * 0.5) / 6
        tensor([0.8333])
    """

    def __init__(self) -> None:
        self._first: Tensor | float = 0.0
        self._rows: Tensor | float = 0.0
        self._batch = -1

    @property
    def is_open(self) -> bool:
        """Whether there is a batch whose gradient has not been used."""
        return self._batch >= 0

    def add(self, rows: Tensor | float, batch: int) -> Tensor | float:
        """Return the factor of a batch's loss.

        Args:
            rows: Rows of the global batch.
            batch: Number of the batch; one that is evaluated again counts once.
        """
        if not self.is_open:
            self._first = self._rows = rows
        elif batch != self._batch:
            self._rows = self._rows + rows
        self._batch = batch
        return rows / self._first

    def close(self, parameters: Iterable[Parameter], batches: int) -> None:
        """Turn the accumulated gradients into that of the union, and begin again.

        Args:
            parameters: Parameters whose gradients are changed in place.
            batches: Batches of a full window.
        """
        factor = self._first * batches / self._rows
        self._batch = -1
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients and (isinstance(factor, Tensor) or factor != 1):
            torch._foreach_mul_(gradients, factor)
