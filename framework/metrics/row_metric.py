"""What metrics that keep rows of numbers have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


class RowMetric(Metric):
    """Base of metrics whose states are lists of rows, joined over batches and ranks.

    Args:
        empty: Each state without a row, (0, ...), for its shape and type.
        **kwargs: Arguments of ``torchmetrics.Metric``.
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, empty: Mapping[str, Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty = dict(empty)
        for name in self._empty:
            self.add_state(name, [], dist_reduce_fx="cat")

    def sync(
        self,
        dist_sync_fn: Callable | None = None,
        process_group: Any | None = None,
        should_sync: bool = True,
        distributed_available: Callable | None = None,
    ) -> None:
        """Gather the states of all ranks, of which some may have seen no row."""
        for name, empty in self._empty.items():
            state = getattr(self, name)
            # what torchmetrics would send from an empty list has another type and shape
            if isinstance(state, list) and not state:
                state.append(empty)
        gather = dist_sync_fn or gather_all_tensors

        def gather_on_device(state: Tensor, group: Any | None = None) -> list[Tensor]:
            return gather(state.to(self.device), group)

        super().sync(gather_on_device, process_group, should_sync, distributed_available)

    def joined(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """Return all rows of a state, on a device."""
        state = getattr(self, name)
        parts = [state] if isinstance(state, Tensor) else state
        return torch.cat([part.to(device) for part in (self._empty[name], *parts)])
