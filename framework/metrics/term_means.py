"""Means over an epoch that survive a restart inside it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from framework.distributed import rank, world_size


class TermMeans:
    """Running means of named scalars, weighted by rows, over all ranks of an epoch.

    Each rank adds its own share; :meth:`compute` and :meth:`state_dict` add the shares of all
    ranks up, so both are collective.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None

    def update(self, names: tuple[str, ...], values: Tensor, rows: Tensor | float) -> None:
        """Add one step.

        Args:
            names: T names; may grow in the course of an epoch.
            values: (T,) this rank's share of the means, so that the sum over ranks is the mean.
            rows: rows of the global batch.
        """
        weighted = values.detach().double() * rows
        share = rows / world_size()
        if names == self._names and self._sums is not None:
            self._sums[0] += weighted
            self._sums[1] += share
            return
        table = torch.stack([weighted, torch.ones_like(weighted) * share])
        if self._sums is None:
            self._names, self._sums = names, table
        else:
            self._merge(names, table)

    def _merge(self, names: tuple[str, ...], table: Tensor) -> None:
        assert self._sums is not None
        known = {name: self._sums[:, i] for i, name in enumerate(self._names)}
        for i, name in enumerate(names):
            known[name] = known[name] + table[:, i] if name in known else table[:, i]
        self._names, self._sums = tuple(known), torch.stack(list(known.values()), dim=1)

    def _global(self) -> Tensor | None:
        if self._sums is None:
            return None
        total = self._sums.clone()
        if world_size() > 1:
            dist.all_reduce(total)
        return total

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name over the rows of the epoch so far."""
        total = self._global()
        if total is None:
            return {}
        means = (total[0] / total[1]).float()
        return dict(zip(self._names, means.unbind(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums over all ranks."""
        total = self._global()
        return {"names": list(self._names), "sums": None if total is None else total.cpu()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from :meth:`state_dict`, on any number of ranks."""
        self.reset()
        if state["sums"] is not None:
            self._names = tuple(state["names"])
            sums = state["sums"].to(device)
            self._sums = sums if rank() == 0 else torch.zeros_like(sums)
