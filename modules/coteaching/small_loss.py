"""The small-loss trick: of a batch keep the rows whose loss is smallest, whatever the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.distributed.collectives import gather, rank, rows_per_rank, world_size
from framework.utilities.checks import check_at_least, check_interval, check_one_of

Scope = Literal["global", "local"]
MARGIN = 1e-9


class SmallLossSelector:
    r"""Keeps the share :math:`1 - \varphi(e)` of a batch whose loss is smallest.

    Networks fit clean labels first, so a row with a large loss is likely to be labeled wrongly.
    The forget rate grows linearly from 0 in epoch 0 to ``forget_rate`` in epoch ``ramp_epochs``. Of
    n rows :math:`\lfloor (1 - \varphi) n \rfloor` are kept, but at least one where there is one.

    Paper: Han et al., *Co-teaching*, NeurIPS 2018, arXiv:1804.06872. The ramp is the paper's with
    epochs counted from 0; the official code (bhanML/Co-teaching) reaches the full rate one epoch
    earlier.

    Args:
        forget_rate: Share of rows to forget, in [0, 1); about that of wrong labels.
        ramp_epochs: Length of the ramp in epochs; 0 forgets at the full rate from the start.
        scope: Rows that are ranked together: ``'global'`` takes those of all ranks, so that any
            number of them selects what one process would; ``'local'`` takes those of each rank and
            does not communicate.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from modules.coteaching.small_loss import SmallLossSelector
        >>> SmallLossSelector(forget_rate=0.25).select(torch.tensor([0.1, 2.0, 0.5, 3.0]))
        tensor([ True,  True,  True, False])
    """

    def __init__(self, forget_rate: float, ramp_epochs: int = 0, scope: Scope = "global") -> None:
        check_interval("[0, 1)", forget_rate=forget_rate)
        check_at_least(0, ramp_epochs=ramp_epochs)
        check_one_of(get_args(Scope), scope=scope)
        self.forget_rate = forget_rate
        self.ramp_epochs = ramp_epochs
        self.scope = scope

    def rate(self, epoch: int) -> float:
        """Return the share of rows to forget in an epoch, from 0."""
        ramp = min(1.0, epoch / self.ramp_epochs) if self.ramp_epochs else 1.0
        return self.forget_rate * ramp

    def select(
        self,
        per_sample_loss: Tensor,
        epoch: int = 0,
        candidates: Tensor | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Return which rows to keep; with scope ``'global'`` a collective call.

        Args:
            per_sample_loss: Loss of every row, (B,); NaN ranks last. Of equal losses the earlier
                row is kept.
            epoch: Epoch of the ramp, from 0.
            candidates: Rows to choose from, (B,) bool; default all.
            counts: Rows B of each rank if known, which saves a round trip.

        Returns:
            Rows to keep, (B,) bool.
        """
        loss = per_sample_loss.detach()
        loss = loss.where(loss == loss, torch.inf)
        if candidates is not None:
            # sorted behind all others, however many they are: to count them a GPU is waited for
            loss = loss.where(candidates, torch.nan)
        if self.scope == "local" or world_size() == 1:
            return self._smallest(loss, epoch)
        counts = rows_per_rank(len(loss), loss.device) if counts is None else counts
        start = sum(counts[: rank()])
        return self._smallest(gather(loss, counts), epoch)[start : start + len(loss)]

    def _smallest(self, loss: Tensor, epoch: int) -> Tensor:
        """Return which of the losses that are not NaN are kept, (B,) bool."""
        places = torch.arange(len(loss), device=loss.device)
        order = loss.sort(stable=True).indices
        place = torch.empty_like(order).scatter_(0, order, places)
        scored = (loss == loss).sum()
        # without the margin 0.57 * 100 is 56.99...
        share = ((1 - self.rate(epoch)) * scored.double() + MARGIN).floor()
        return place < share.clamp(min=1).minimum(scored)

    def most(self, rows: int, epoch: int) -> int:
        """Return how many of a number of rows are kept at most."""
        return min(rows, max(1, math.floor((1 - self.rate(epoch)) * rows + MARGIN)))
