"""Map-style data sets: whole batches by one indexing operation, and a stable index per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, default_collate

from framework.data.samplers import SampleKey
from framework.utilities.randomness import seeded

Sample = dict[str, Any]
Batch = dict[str, Any]


class BatchedDataset(Dataset[Sample]):
    """Base of data sets that read a whole batch at once; a subclass has a length as well."""

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        raise NotImplementedError(f"{type(self).__name__} reads no batches.")

    def batch_of_epoch(self, rows: Sequence[int] | Tensor, epoch: int, seed: int) -> Batch:
        """Return the rows as one batch; override where samples are drawn anew in each epoch.

        Args:
            rows: Positions in the data set.
            epoch: Epoch of the training; 0 outside.
            seed: Seed of the stream of batches.
        """
        return self.batch(rows)

    def __getitem__(self, row: int) -> Sample:
        return {name: value[0] for name, value in self.batch([row]).items()}


class ArrayDataset(BatchedDataset):
    """Samples held as one tensor per field; a whole batch is read by one indexing operation.

    Args:
        **fields: Tensors of equal length N, such as ``image`` (N, C, H, W) and ``label`` (N,).
            Images in uint8 are returned as float32 in [0, 1].

    Raises:
        ValueError: the lengths differ.
    """

    def __init__(self, **fields: Tensor) -> None:
        lengths = {name: len(value) for name, value in fields.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Fields of one data set must have equal lengths, got {lengths}.")
        self.fields = fields

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        picked = {name: value[torch.as_tensor(rows)] for name, value in self.fields.items()}
        return {name: _as_float(value) for name, value in picked.items()}

    def __getitem__(self, row: int) -> Sample:
        # a copy, so that a transform in place does not change the data set
        return {name: _as_float(value[row].clone()) for name, value in self.fields.items()}


def _as_float(value: Tensor) -> Tensor:
    return value.float().div_(255) if value.dtype == torch.uint8 else value


class IndexedDataset(Dataset[Any]):
    """Reads (epoch, position) keys, adds ``index``, and augments reproducibly.

    Args:
        dataset: Map-style data set of dicts of tensors. A ``Subset`` keeps its parent's positions
            as ``index``.
        augment: Function from a sample to a sample; its random numbers, drawn from any global
            generator, depend on (seed, epoch, index) alone.
        seed: Seed of the augmentation.
        collate: Function from a list of samples to a batch.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        *,
        augment: Callable[[Sample], Sample] | None = None,
        seed: int = 0,
        collate: Callable[[list[Sample]], Batch] = default_collate,
    ) -> None:
        self.dataset = dataset
        self.augment = augment
        self.seed = seed
        self.collate = collate

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, row = key
        sample = dict(self.dataset[row])
        index = stable_position(self.dataset, row)
        sample["index"] = torch.tensor(index)
        if self.augment is not None:
            with seeded(self.seed, epoch, index, "augment"):
                sample = self.augment(sample)
        return sample

    def __getitems__(self, keys: list[SampleKey]) -> Batch:
        """Return the collated batch; an empty list gives fields of length 0."""
        source, rows = root_and_rows(self.dataset, [row for _, row in keys])
        if self.augment is None and isinstance(source, BatchedDataset):
            index = torch.as_tensor(rows, dtype=torch.int64)
            epoch = keys[0][0] if keys else 0
            return {**source.batch_of_epoch(index, epoch, self.seed), "index": index}
        if not keys:
            return {name: value[:0] for name, value in self.__getitems__([(0, 0)]).items()}
        return self.collate([self[key] for key in keys])


def root_and_rows(dataset: Any, rows: list[int]) -> tuple[Any, list[int]]:
    """Return the data set behind a (nested) ``Subset``, and where ``rows`` stand in it."""
    while isinstance(dataset, Subset):
        rows = [int(dataset.indices[row]) for row in rows]
        dataset = dataset.dataset
    return dataset, rows


def stable_position(dataset: Any, row: int) -> int:
    """Return the position in the full training set of a row of a (nested) ``Subset``."""
    return root_and_rows(dataset, [row])[1][0]
