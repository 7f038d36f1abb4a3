"""Thresholds above which a given number of values lie, from histograms that ranks can add up."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum

_LOWEST, _OCTAVES = -20, 32
_BLOCK = 1 << 22


class PositiveHistogram:
    """Counts positive float32 values per group in bins of equal relative width.

    The bins are the leading bits of the numbers: 32 octaves from 2**-20, each cut into
    ``2**bits`` equal parts. Values outside fall into the first or the last bin. Memory is ``4 G *
    32 * 2**bits`` bytes, 8 KiB per group at 6 bits.

    Args:
        groups: Number of groups G; with more than one, each may hold 2**31 values at most.
        bits: Bits of the mantissa.
        device: Device of the counts.

    Example:
        >>> import torch
        >>> from framework.sparse_coding.quantiles import PositiveHistogram
        >>> histogram = PositiveHistogram(groups=1, bits=10)
        >>> histogram.add(torch.zeros(4, dtype=torch.int64), torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> 2.0 < float(histogram.thresholds(torch.tensor([2.0]))) <= 3.0
        True
    """

    def __init__(self, groups: int, bits: int, device: torch.device | str = "cpu") -> None:
        self.bits = bits
        self.bins = _OCTAVES << bits
        dtype = torch.int32 if groups > 1 else torch.int64
        self.counts = torch.zeros(groups * self.bins, dtype=dtype, device=device)

    def add(self, group: Tensor, values: Tensor) -> None:
        """Count ``values``, (n,) positive, of the groups (n,) int64."""
        leading = values.float().view(torch.int32) >> (23 - self.bits)
        place = (leading - ((127 + _LOWEST) << self.bits)).clamp(0, self.bins - 1).long()
        place += group * self.bins
        self.counts.scatter_add_(0, place, torch.ones_like(place, dtype=self.counts.dtype))

    def totals(self) -> Tensor:
        """Return how many values each group has on all ranks, (G,) int64; a collective call."""
        return all_reduce_sum(self.counts.view(-1, self.bins).sum(1))

    def thresholds(self, wanted: Tensor) -> Tensor:
        """Return above which value ``wanted[g]`` values of group g lie, on all ranks together.

        Interpolated within a bin. A collective call.

        Args:
            wanted: (G,) not negative.

        Returns:
            (G,) float32; 0 where there are no more values, infinite where there are none.
        """
        counts = all_reduce_sum(self.counts).view(len(wanted), self.bins)
        wanted = wanted.to(counts.device, torch.float64)[:, None]
        # some groups at a time: sums over the bins are several times as large as the counts
        groups = max(1, _BLOCK // self.bins)
        parts = zip(counts.split(groups), wanted.split(groups), strict=True)
        return torch.cat([self._thresholds(*part) for part in parts])

    def _thresholds(self, counts: Tensor, wanted: Tensor) -> Tensor:
        above = counts.flip(1).cumsum(1).flip(1)
        # the last bin from which at least as many values lie upwards
        place = ((above >= wanted).sum(1, keepdim=True) - 1).clamp(min=0)
        inside = counts.gather(1, place).double()
        beyond = above.gather(1, place).double() - inside
        part = torch.where(inside > 0, (wanted - beyond) / inside, 1.0).clamp(0, 1)
        lower, upper = self._edge(place), self._edge(place + 1)
        found = (upper - part * (upper - lower)).float()
        total = above[:, :1]
        found = torch.where(total <= wanted, 0.0, found)
        return torch.where(total == 0, torch.inf, found).squeeze(1)

    def _edge(self, place: Tensor) -> Tensor:
        octave, part = place >> self.bits, place & ((1 << self.bits) - 1)
        return torch.ldexp(1 + part.double() / (1 << self.bits), octave + _LOWEST)
