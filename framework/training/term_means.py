"""Means over an epoch that survive a restart inside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from framework.distributed.collectives import rank, world_size


class TermMeans:
    """Running means of named scalars, weighted by rows, over all ranks of an epoch.

    Each rank adds its own share; ``compute`` and ``state_dict`` add the shares of all
    ranks up, so both are collective.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # (2, T) weighted sums and rows for each set of names that came together
        self._parts: dict[tuple[str, ...], Tensor] = {}

    def update(self, names: tuple[str, ...], values: Tensor, rows: Tensor | float) -> None:
        """Add one step.

        Args:
            names: T names; may differ from step to step.
            values: (T,) this rank's share of the means, so that the sum over ranks is the mean.
            rows: Rows of the global batch.
        """
        values = values.detach()
        if names not in self._parts:
            shape = (2, len(names))
            self._parts[names] = torch.zeros(shape, dtype=torch.float64, device=values.device)
        sums, weights = self._parts[names].unbind()
        if isinstance(rows, Tensor):
            sums += values.double() * rows
        else:
            sums.add_(values, alpha=rows)
        weights += rows / world_size()

    def _global(self) -> dict[tuple[str, ...], Tensor]:
        if world_size() == 1 or not self._parts:
            return {names: part.clone() for names, part in self._parts.items()}
        packed = torch.cat(list(self._parts.values()), dim=1)
        dist.all_reduce(packed)
        parts = packed.split([len(names) for names in self._parts], dim=1)
        return dict(zip(self._parts, parts, strict=True))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name over the rows of the epoch so far.

        Names of no row, such as a loss on rows that the data has none of, are left out.
        """
        merged: dict[str, Tensor] = {}
        for names, part in self._global().items():
            for name, column in zip(names, part.unbind(1), strict=True):
                merged[name] = merged[name] + column if name in merged else column
        return {name: (total / rows).float() for name, (total, rows) in merged.items() if rows}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all ranks."""
        parts = [[list(names), part.cpu()] for names, part in self._global().items()]
        return {"parts": parts}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from ``state_dict``, on any number of ranks."""
        self.reset()
        for names, part in state["parts"]:
            # the sums are those of all ranks, so only one may go on with them
            own = part if rank() == 0 else torch.zeros_like(part)
            self._parts[tuple(names)] = own.to(device, copy=True)
