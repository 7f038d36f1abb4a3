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
        # weighted sums (T,), and rows, for each set of names that came together
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._rows: dict[tuple[str, ...], Tensor | float] = {}

    def update(self, names: tuple[str, ...], values: Tensor, rows: Tensor | float) -> Tensor:
        """Add one step, and return the sums so far, which are not to be changed.

        Args:
            names: T names; may differ from step to step.
            values: (T,) this rank's share of the means, so that the sum over ranks is the mean.
            rows: Rows of the global batch.
        """
        values = values.detach()
        if names not in self._sums:
            shape = (len(names),)
            self._sums[names] = torch.zeros(shape, dtype=torch.float64, device=values.device)
            self._rows[names] = 0.0
        sums = self._sums[names]
        if isinstance(rows, Tensor):
            sums += values.double() * rows
        else:
            sums.add_(values, alpha=rows)
        # a number that the CPU knows stays there
        self._rows[names] = self._rows[names] + rows / world_size()
        return sums

    def _global(self) -> dict[tuple[str, ...], Tensor]:
        """Return (2, T) sums and rows of all ranks for each set of names."""
        parts = {
            names: torch.stack([sums, torch.ones_like(sums) * self._rows[names]])
            for names, sums in self._sums.items()
        }
        if world_size() == 1 or not parts:
            return parts
        packed = torch.cat(list(parts.values()), dim=1)
        dist.all_reduce(packed)
        split = packed.split([len(names) for names in parts], dim=1)
        return dict(zip(parts, split, strict=True))

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
            sums, rows = part if rank() == 0 else torch.zeros_like(part)
            self._sums[tuple(names)] = sums.to(device, copy=True)
            self._rows[tuple(names)] = float(rows[0])
