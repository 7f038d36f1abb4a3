"""Layers that draw anew in each training forward, and go on after a restart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from framework.utilities.randomness import global_seed


class RandomLayer(nn.Module):
    """Base of layers that draw from a function of the seed, ``stream`` and the training forwards.

    A subclass adds 1 to ``_count`` in each training forward. The number is in the ``state_dict``.

    Args:
        stream: Name of the random stream.

    Example:
        >>> RandomLayer("input").get_extra_state()
        {'count': 0}
    """

    def __init__(self, stream: str) -> None:
        super().__init__()
        self.stream = stream
        self.seed = global_seed()
        # compiled code would be bound to a number
        self._count = torch.zeros((), dtype=torch.int64, device="cpu")

    @property
    def count(self) -> int:
        """Number of training forwards so far."""
        return int(self._count)

    @count.setter
    def count(self, count: int) -> None:
        self._count.fill_(count)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the next draw depends on."""
        return {"count": self.count}

    def set_extra_state(self, state: Any) -> None:
        """Continue from ``get_extra_state``."""
        self.count = state["count"]
