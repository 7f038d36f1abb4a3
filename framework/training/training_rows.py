"""The rows of the training set of any run, read without its loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch.utils.data import IterableDataset

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import world_size
from framework.objectives.errors import IncompatibleError
from framework.utilities.lightning_internals import datamodule_of, train_loader
from framework.utilities.randomness import seeded


def training_rows(
    module: LightningModule, owner: object
) -> tuple[Any, Callable[[list[int]], Batch]]:
    """Return the training set, and a function from positions in it to a batch.

    Args:
        module: Module attached to a Trainer.
        owner: Object that reads, for messages.

    Raises:
        IncompatibleError: The rows have no positions.
    """
    data = datamodule_of(module.trainer)
    if isinstance(data, DataModule):
        indexed: Any = data.ordered_train_dataloader().dataset
        return indexed.dataset, lambda rows: indexed.__getitems__([(0, row) for row in rows])
    loader = _loader(module)
    dataset: Any = getattr(loader, "dataset", None)
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise IncompatibleError(
            f"{type(owner).__name__} looks at the same training rows again and again: give fit() a "
            "DataLoader of a map-style data set, or a trimtab DataModule."
        )

    def read(rows: list[int]) -> Batch:
        with seeded("probe", *rows):
            if hasattr(dataset, "__getitems__"):
                return loader.collate_fn(dataset.__getitems__(rows))
            return loader.collate_fn([dataset[row] for row in rows])

    return dataset, read


def _loader(module: LightningModule) -> Any:
    given = train_loader(module.trainer)
    return module.trainer.train_dataloader if given is None else given


def rows_of_step(module: LightningModule) -> int:
    """Return the rows of a batch of training over all ranks, 1 where nothing says it."""
    data = datamodule_of(module.trainer)
    if isinstance(data, DataModule):
        return data.batch_size
    loader = _loader(module)
    batches = getattr(loader, "batch_sampler", None)
    size = getattr(batches, "batch_size", None) or getattr(loader, "batch_size", None) or 1
    return int(size) * world_size()
