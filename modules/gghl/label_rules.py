"""The rules that say which cells an object trains, and how wide its Gaussian is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

TIE = 1e-4
"""Relative difference up to which two values of a Gaussian count as equal: corners are rounded."""


@dataclass(frozen=True)
class CodeRule:
    """The rule of the label file that the authors' trainer imports.

    The levels belong to the object, every cell is positive in full, and cells are looked for in a
    window of at most 11, 9 and 7 cells.

    Args:
        strides: Strides of the K levels.
        iou_thr: Threshold T of the paper.
        level_scale: Factor of the lengths at which levels change.
        level_overlap: Factor by which a level reaches beyond that length.
        radius_cap: Half-width in cells of the window on the first level, one less on each further
            level.
    """

    windowed: ClassVar[bool] = True
    """Whether cells are looked for near the center only."""

    strides: tuple[int, ...]
    iou_thr: float
    level_scale: float
    level_overlap: float
    radius_cap: int

    def level_lengths(self, image_size: tuple[int, int]) -> list[float]:
        """Return the lengths in pixels at which one level ends and the next begins, (K-1)."""
        size = math.sqrt(image_size[0] * image_size[1])
        if len(self.strides) == 4:
            return [self.level_scale / 3 * size / part for part in (10, 5, 2.5)]
        per_stride = self.level_scale * 2 / (1 - self.iou_thr) * size / 800
        return [per_stride * self.strides[0], per_stride * self.strides[2]]

    def on_level(self, length: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Return which objects train which levels, (n, K) bool.

        Args:
            length: Longer sides of the horizontal boxes, (n, 1).
            image_size: Height and width in pixels.
        """
        ends = length.new_tensor(self.level_lengths(image_size))
        below = length <= self.level_overlap * ends
        above = length > ends
        everyone = torch.ones_like(below[:, :1])
        return torch.cat([below, everyone], dim=1) & torch.cat([everyone, above], dim=1)

    def radius(self, size: Tensor, stride: Tensor, level: Tensor) -> Tensor:
        """Return the half-widths and half-heights of windows in cells, (n, 2).

        Args:
            size: Widths and heights of the horizontal boxes in pixels, (n, 2).
            stride: Strides, (n, 1).
            level: Levels, (n,).
        """
        caps = self.radius_cap - torch.arange(len(self.strides), device=size.device)
        radius = (size / (2 * stride)).clamp(min=1)
        return torch.minimum(radius, caps[level][:, None].to(size.dtype)).floor()

    def sigma(self, long: Tensor, short: Tensor, stride: Tensor) -> Tensor:
        """Return σ along and across in cells, (n, 2).

        Args:
            long: Long sides in pixels, (n,).
            short: Short sides in pixels, (n,).
            stride: Strides, (n, 1).
        """
        return 0.5 * (torch.stack([long, short], dim=1) / (2 * stride)) ** (1 - self.iou_thr)

    def fits_level(self, farthest: Tensor, level: Tensor) -> Tensor:
        """Return which cells may train on their level, by their largest distance, (m,) bool."""
        return torch.ones_like(level, dtype=torch.bool)

    def mask(self, pair: Tensor, g: Tensor) -> Tensor:
        """Return by how much cells are positive, (m,).

        Args:
            pair: Number of the object and level that a cell belongs to, (m,), ascending.
            g: Values of the Gaussians above the threshold, (m,).
        """
        return torch.ones_like(g)

    def area_weight(self, pair: Tensor, kept: Tensor, radius: Tensor) -> Tensor:
        """Return w_A of every object and level, (n,).

        Args:
            pair: Number of the object and level that a cell belongs to, (m,).
            kept: Whether cells lie in the box and train on their level, (m,) bool.
            radius: Half-widths and half-heights of the windows in cells, (n, 2).
        """
        if len(self.strides) == 4:
            return _weight_by_number(torch.bincount(pair[kept], minlength=len(radius)), radius)
        return math.log(2) / torch.log(radius.prod(dim=1).sqrt() + 1)


class IsotropicRule(CodeRule):
    """``CodeRule`` with both σ from the short side, for comparison."""

    def sigma(self, long: Tensor, short: Tensor, stride: Tensor) -> Tensor:
        """Return σ of the short side twice, (n, 2)."""
        return super().sigma(short, short, stride)


class PaperRule(CodeRule):
    """The rule of the authors' other label file, which matches the text of the paper.

    The level belongs to the cell. The best 1-T of an object's cells on a level are positive in
    full, with all that are as good as the last of them; the rest are by g. As in that file, the
    share is one of all cells above the threshold, also of those outside the box or of another
    level. There cells are counted in a window that reaches two cells further to the right and
    downwards than to the left and upwards; here all of the level count, so that a turned image has
    the turned targets.
    """

    windowed = False

    def on_level(self, length: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Return every level for every object: each cell decides for itself."""
        return torch.ones_like(length, dtype=torch.bool).expand(-1, len(self.strides))

    def sigma(self, long: Tensor, short: Tensor, stride: Tensor) -> Tensor:
        """Return a quarter of the sides in cells, (n, 2)."""
        return 0.5 * (torch.stack([long, short], dim=1) / (2 * stride))

    def fits_level(self, farthest: Tensor, level: Tensor) -> Tensor:
        """Return which cells have a largest distance of their level, (m,) bool."""
        ends = [8.0 * s for s in self.strides[:-1]]
        bounds = farthest.new_tensor([0.0, *ends, math.inf])
        return (farthest > bounds[level]) & (farthest <= bounds[level + 1])

    def mask(self, pair: Tensor, g: Tensor) -> Tensor:
        """Return 1 for the best cells of each object and level, g for the others."""
        order = g.argsort(descending=True, stable=True)
        order = order[pair[order].argsort(stable=True)]
        number = torch.bincount(pair)
        # `pair` ascends, so that sorting moved rows within their group only
        last = number.cumsum(0) - number + self._best(number) - 1
        threshold = g[order[last[pair]]]
        return torch.where(g >= (1 - TIE) * threshold, 1.0, g)

    def area_weight(self, pair: Tensor, kept: Tensor, radius: Tensor) -> Tensor:
        """Return w_A by the number of the best cells, (n,)."""
        return _weight_by_number(self._best(torch.bincount(pair, minlength=len(radius))), radius)

    def _best(self, number: Tensor) -> Tensor:
        """Return how many of so many cells are the best 1-T."""
        return ((1 - self.iou_thr) * number.double()).ceil().long()


def _weight_by_number(number: Tensor, radius: Tensor) -> Tensor:
    return 2 * math.log(2) / torch.log(number.clamp(min=1).to(radius.dtype).sqrt() + 1)
