"""Labeled images that are read a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from framework.data.datasets import ArrayDataset, Batch, Sample


class ImageSet(ArrayDataset):
    """Images in memory, yielded as ``image`` (C, H, W) float32 with the other fields.

    Takes ``image`` (N, C, H, W), uint8 or float32 in [0, 1], and ``label`` (N,) int64. A subclass
    that reads its images from elsewhere overrides ``read`` and ``followed_by``.

    Example:
        >>> image = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
        >>> images = ImageSet(image=image, label=torch.arange(2))
        >>> float(images[1]["image"].max()), int(images[1]["label"])
        (1.0, 1)
    """

    normalize: Callable[[Tensor], Tensor] | None = None
    """Applied to the (B, C, H, W) images of every batch."""

    def read(self, rows: Tensor) -> Batch:
        """Return the rows with ``image`` in [0, 1], not normalized."""
        return super().batch(rows)

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        batch = self.read(torch.as_tensor(rows, dtype=torch.int64))
        if self.normalize is not None:
            batch["image"] = self.normalize(batch["image"])
        return batch

    def __getitem__(self, row: int) -> Sample:
        return {name: value[0] for name, value in self.batch([row]).items()}

    def relabeled(self, label: Tensor) -> ImageSet:
        """Return the same images under other labels, the present ones as ``clean_label``."""
        other = copy(self)
        other.fields = {**self.fields, "label": label, "clean_label": self.fields["label"]}
        return other

    def followed_by(self, *others: Self) -> Self:
        """Return these images and then those of other parts of the same data set."""
        joined = copy(self)
        joined.fields = {
            name: torch.cat([value, *(other.fields[name] for other in others)])
            for name, value in self.fields.items()
        }
        return joined
