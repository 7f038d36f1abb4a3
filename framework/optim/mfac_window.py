"""M-FAC's window as a state: columns of it on each rank, and the whole in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.distributed.collectives import gather, rank, world_size
from framework.utilities.checks import check_at_least

# numbers of the window that are gathered at a time
_PART = 1 << 24


@dataclass(frozen=True)
class Columns:
    """Columns of a window that each rank holds: consecutive ones, all alike but for one.

    Args:
        size: Number of columns of the window.
        sharded: Whether ranks hold different ones; otherwise each holds all.

    Example:
        >>> Columns(size=5, sharded=False).own
        slice(0, 5, None)
    """

    size: int
    sharded: bool

    @property
    def counts(self) -> list[int]:
        """Number of columns of each rank."""
        ranks = world_size() if self.sharded else 1
        return [self.size // ranks + (number < self.size % ranks) for number in range(ranks)]

    @property
    def own(self) -> slice:
        """Columns of this rank."""
        counts, number = self.counts, rank() if self.sharded else 0
        start = sum(counts[:number])
        return slice(start, start + counts[number])

    def joined(self, own: Tensor) -> Tensor:
        """Return a vector of which each rank has its columns, on all of them."""
        return gather(own, self.counts) if self.sharded else own

    def joined_rows(self, own: Tensor) -> Tensor | None:
        """Return rows likewise; where ranks hold different columns, on rank 0's CPU alone."""
        if not self.sharded:
            return own
        parts = []
        for part in own.split(max(1, _PART // max(1, self.size))):
            whole = gather(part.T.contiguous(), self.counts)
            if rank() == 0:
                parts.append(whole.cpu().T)
        return torch.cat(parts) if parts else None


def columns_of(window: dict[str, Any], own: slice, device: torch.device) -> dict[str, Any]:
    """Return a copy of the state of a whole window, with some of its columns."""
    return {
        "rows": window["rows"][:, own].to(device, copy=True).contiguous(),
        "gram": window["gram"].to(device, copy=True),
        "pushed": int(window["pushed"]),
    }


def check_window(window: Any, m: Any, size: int) -> None:
    """Raise ``ValueError`` for the state of a window of other than m gradients of so many entries.

    Args:
        window: State that was saved.
        m: Number of gradients.
        size: Number of entries of a gradient.
    """
    if not isinstance(window, dict) or not {"rows", "gram", "pushed"} <= window.keys():
        raise ValueError("The window of this state must be a dict of rows, gram and pushed.")
    if window["rows"] is None:
        raise ValueError("This state has no window: load the one that rank 0 returned.")
    shapes = [tuple(getattr(window[name], "shape", ())) for name in ("rows", "gram")]
    if shapes != [(m, size), (1, m, m)]:
        raise ValueError(
            f"The window of this state has rows {shapes[0]} and products {shapes[1]}; those of "
            f"these parameters are {(m, size)} and {(1, m, m)}."
        )
    check_at_least(0, pushed=window["pushed"])
