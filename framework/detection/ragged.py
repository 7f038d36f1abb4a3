"""Images with unequal numbers of objects: shared tensors of many, and padded batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import default_collate

from framework.data.datasets import Batch, Sample


class Rows(Protocol):
    """A dataclass of tensors with as many rows each."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Self: ...


R = TypeVar("R", bound=Rows)


class RowTable(Generic[R]):
    """The rows of many images in one tensor per field, which loading processes share.

    Args:
        images: Rows of each image.
        none: Rows of an image that has none.
    """

    def __init__(self, images: Sequence[R], none: R) -> None:
        images = [none, *images]
        names = [field.name for field in fields(none)]  # type: ignore[arg-type]
        self.rows = type(none)(
            *(torch.cat([getattr(image, name) for image in images]) for name in names)
        )
        self.ends = torch.tensor([len(image) for image in images]).cumsum(0)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, image: int) -> R:
        return self.rows[int(self.ends[image]) : int(self.ends[image + 1])]


def pad_rows(samples: Sequence[Sample], padding: Mapping[str, float]) -> Batch:
    """Join samples to one batch, some fields of which have unequal numbers of rows.

    Args:
        samples: Samples with the same fields.
        padding: Value that fills up each field with rows; other fields are stacked.

    Returns:
        Fields with rows as (B, M, ...), M being the largest number of the field, at least 1.

    Raises:
        RuntimeError: fields to be stacked, such as the images, differ in size.

    Example:
        >>> samples = [{"label": torch.tensor([3, 5])}, {"label": torch.tensor([4])}]
        >>> pad_rows(samples, {"label": -1})["label"]
        tensor([[ 3,  5],
                [ 4, -1]])
    """
    stacked = [
        {name: value for name, value in sample.items() if name not in padding} for sample in samples
    ]
    batch: Batch = default_collate(stacked)
    for name in samples[0]:
        if name in padding:
            batch[name] = _pad([sample[name] for sample in samples], padding[name])
    return batch


def _pad(values: list[Tensor], fill: float) -> Tensor:
    longest = max(1, *(len(value) for value in values))
    padded = values[0].new_full((len(values), longest, *values[0].shape[1:]), fill)
    for row, value in zip(padded, values, strict=True):
        row[: len(value)] = value
    return padded
