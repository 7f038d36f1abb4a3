"""All rows of other data as features of nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.image_data import ImageData
from datamodules.whole_set import WholeSet
from framework.data.datamodule import DataModule
from framework.data.datasets import BatchedDataset, root_and_rows
from framework.utilities.limits import check_size

FIELDS = ("image", "input", "x")
"""Fields of a batch that may be features, the first of them that there is."""


def all_rows(data: DataModule) -> tuple[Tensor, Tensor | None]:
    """Return the features and labels of all rows: training, guide, validation, test.

    Args:
        data: Datamodule of images or of rows of numbers.

    Returns:
        Features (N, F) float32, images with their pixels in one row, and labels (N,) int64, or None
        where some have none.

    Raises:
        TypeError: Data whose rows are not of one size, or cannot be read at once.
        ValueError: Data that are no fixed rows, see ``WholeSet``, or too large.
    """
    name = type(data).__name__
    if isinstance(data, ImageData):
        whole = WholeSet(data)
        whole.use_facts(data.trained)
        whole.setup("fit")
        sets: list[Any] = [whole.train_set]
    else:
        data.setup("fit")
        plain = data.train_set if data.plain_train_set is None else data.plain_train_set
        parts = (plain, data.guide_set, data.val_set, data.test_set)
        sets = [part for part in parts if part is not None]
    batches = [_batch(part, name) for part in sets]
    field = next((field for field in FIELDS if all(field in batch for batch in batches)), None)
    if field is None or len({batch[field].shape[1:] for batch in batches}) != 1:
        raise TypeError(f"{name} serves no rows of one size that could be neighbors.")
    x = torch.cat([batch[field].flatten(1).float() for batch in batches])
    labeled = all("label" in batch and batch["label"].ndim == 1 for batch in batches)
    label = torch.cat([batch["label"] for batch in batches]) if labeled else None
    return x, None if label is None or (label < 0).any() else label.long()


def _batch(part: Any, name: str) -> dict[str, Tensor]:
    source, rows = root_and_rows(part, list(range(len(part))))
    if not isinstance(source, BatchedDataset):
        raise TypeError(f"{name} serves {type(source).__name__}, which is not read at once.")
    first = source.batch(rows[:1])
    size = sum(value[0].numel() * 4 for value in first.values() if isinstance(value, Tensor))
    check_size(name, size * len(rows), "all its rows as features of nodes")
    return source.batch(rows)
