"""The gradient of several accumulated batches is that of the union of their rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter


class AccumulationWindow:
    """Weighs the batches between two optimizer steps by what their means were divided by.

    Lightning divides every loss by the number of batches of a full window, so that a smaller batch
    counts as much as a full one, and a window that the epoch's end cuts short counts too little. A
    single term of one value per row is weighed by its normalizer, such as the rows that are not to
    be ignored or their class weights, and its gradient is exactly that of the union. Where a step
    has several terms, or one that is no sum over rows, batches are averaged by rows. Where all
    batches are equal and the window is full, nothing changes by a single bit.

    Example:
        >>> window = AccumulationWindow()
        >>> [window.add(normalizer, batch) for batch, normalizer in enumerate([4.0, 2.0])]
        [1.0, 0.5]
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.tensor([1.0]) / 3 + torch.tensor([0.5]) * 0.5 / 3
        >>> window.close([weight], batches=3)
        >>> weight.grad  # (4 * 1.0 + 2 * 0.5) / 6
        tensor([0.8333])
    """

    def __init__(self) -> None:
        self._unit: Tensor | float = 1.0
        self._total: Tensor | float = 0.0
        self._batch = -1

    @property
    def is_open(self) -> bool:
        """Whether there is a batch whose gradient has not been used."""
        return self._batch >= 0

    def add(self, normalizer: Tensor | float, batch: int) -> Tensor | float:
        """Return the factor of a batch's loss.

        Args:
            normalizer: What the mean over the global batch was divided by; 0 where no row counts,
                whose loss and gradient are 0.
            batch: Number of the batch; one that is evaluated again counts once.
        """
        if not self.is_open:
            self._unit, self._total = _or_one(normalizer), normalizer
        elif batch != self._batch:
            self._total = self._total + normalizer
        self._batch = batch
        return normalizer / self._unit

    def close(self, parameters: Iterable[Parameter], batches: int) -> None:
        """Turn the accumulated gradients into that of the union, and begin again.

        Args:
            parameters: Parameters whose gradients are changed in place.
            batches: Batches of a full window.
        """
        factor = self._unit * batches / _or_one(self._total)
        self._batch = -1
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients and (isinstance(factor, Tensor) or factor != 1):
            torch._foreach_mul_(gradients, factor)


def _or_one(value: Tensor | float) -> Tensor | float:
    """Return ``value``, or 1 in place of 0, without waiting for a GPU."""
    return torch.where(value == 0, 1, value) if isinstance(value, Tensor) else value or 1.0
