"""The labeled objects of an image, and how many images' objects become one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from framework.data.datasets import Batch, Sample
from framework.detection.ragged import RowTable, pad_rows

PADDING = {"quads": 0, "label": -1, "difficult": False, "object_weight": 0}
"""What fills up each field of an image with fewer objects than another one of the batch."""

_PADDING = PADDING | {f"image_{name}": value for name, value in PADDING.items()}


@dataclass(frozen=True)
class Objects:
    """The n oriented objects of one image.

    Args:
        quads: (n, 4, 2) float32 corners in pixels, x to the right and y down, clockwise on screen.
        label: (n,) int64 class.
        difficult: (n,) uint8: 0, 1 for an object that an evaluation neither rewards nor punishes,
            or 2 for one of which a tile shows too little to learn from.

    Example:
        >>> objects = Objects(torch.zeros(3, 4, 2), torch.tensor([4, 0, 1]), torch.zeros(3).byte())
        >>> objects[torch.tensor([2, 0])].label
        tensor([1, 4])
    """

    quads: Tensor
    label: Tensor
    difficult: Tensor

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, rows: slice | Tensor) -> Objects:
        return Objects(self.quads[rows], self.label[rows], self.difficult[rows])

    @classmethod
    def none(cls) -> Objects:
        """Return the objects of an image that has none."""
        return cls(
            torch.zeros(0, 4, 2),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.uint8),
        )

    def fields(self) -> Sample:
        """Return the objects as fields of a sample, each with the whole weight."""
        return {
            "quads": self.quads.clone(),
            "label": self.label.clone(),
            "difficult": self.difficult > 0,
            "object_weight": torch.ones(len(self)),
        }


class ObjectTable(RowTable[Objects]):
    """The objects of many images in three tensors, which loading processes share.

    Args:
        images: Objects of each image.

    Example:
        >>> one = Objects(torch.ones(1, 4, 2), torch.tensor([7]), torch.zeros(1).byte())
        >>> table = ObjectTable([Objects.none(), one])
        >>> len(table), len(table[0]), table[1].label
        (2, 0, tensor([7]))
    """

    def __init__(self, images: Sequence[Objects]) -> None:
        super().__init__(images, Objects.none())


def pad_objects(samples: Sequence[Sample]) -> Batch:
    """Join samples with unequal numbers of objects to one batch.

    Fields of objects (``quads`` (n, 4, 2), ``label`` (n,), ``difficult`` (n,), ``object_weight``
    (n,), and those of a whole image, whose names begin with ``image_``) become (B, M, ...), M being
    the largest n of the field, at least 1. The places that an image does not need hold label -1,
    weight 0, difficult False and corners 0. Other fields are stacked.

    Raises:
        RuntimeError: fields to be stacked, such as the images, differ in size.

    Example:
        >>> batch = pad_objects([{"label": torch.tensor([3, 5])}, {"label": torch.tensor([4])}])
        >>> batch["label"]
        tensor([[ 3,  5],
                [ 4, -1]])
    """
    return pad_rows(samples, _PADDING)
