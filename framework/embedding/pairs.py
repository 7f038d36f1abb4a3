"""Pairs of images that are verified to be of one class, such as one person, or of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least


@dataclass(frozen=True)
class Pairs:
    """A list of M pairs of images of one set, in the order of its folds.

    Args:
        first: Position of the first image of each pair in the set, (M,) int64.
        second: Position of the second image, (M,) int64.
        same: Whether both are of one class, (M,) bool.
        num_folds: Number of contiguous folds of the list, for a threshold that is chosen on others.

    Raises:
        ValueError: the shapes differ, the list is empty, or there are more folds than pairs.

    Example:
        >>> import torch
        >>> Pairs(torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([True, False]), 2).count
        2
    """

    first: Tensor
    second: Tensor
    same: Tensor
    num_folds: int = 10

    def __post_init__(self) -> None:
        shapes = {tuple(part.shape) for part in (self.first, self.second, self.same)}
        if len(shapes) > 1 or self.first.ndim != 1 or not len(self.first):
            raise ValueError(
                "A list of pairs has first, second and same of one shape (M,), M at least 1; got "
                f"{', '.join(map(str, sorted(shapes)))}."
            )
        check_at_least(1, num_folds=self.num_folds)
        if self.num_folds > self.count:
            raise ValueError(f"{self.count} pairs cannot be put in {self.num_folds} folds.")
        if self.same.dtype != torch.bool:
            raise ValueError(f"same must be bool, got {self.same.dtype}.")

    @property
    def count(self) -> int:
        """Number M of pairs."""
        return len(self.first)
