"""Gradients of small batches of the training set, at fixed weights, beside training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from framework.data.datamodule import DataModule
from framework.distributed.averages import average_over_ranks
from framework.distributed.collectives import world_size
from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from framework.training.module import TrainingModule
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.lightning_internals import datamodule_of
from framework.utilities.randomness import capture_rng, restore_rng, stable_seed


def mean_gradients(
    module: LightningModule,
    parameters: Sequence[Tensor],
    count: int,
    rows: int,
    key: Sequence[int | str] = (),
) -> Iterator[list[Tensor]]:
    """Yield gradients of the mean loss over small batches, in evaluation mode.

    Collective: on several ranks the gradients are those of one process. No random number generator
    notices. The loss is the sum of a ``TrainingModule``'s terms, without those of callbacks, on
    rows that are drawn anew; with another datamodule the loss that ``training_step`` returns, of
    which nothing is logged, on parts of the first batches of the training loader, pass after pass.

    Args:
        module: Module attached to a Trainer.
        parameters: Tensors that the loss is differentiated by; 0 where it does not depend on one.
        count: Number of gradients.
        rows: Number of rows of a batch, over all ranks.
        key: Names and numbers that the rows are drawn by.

    Raises:
        IncompatibleError: The training loader keeps its workers, so that it has one iterator.
    """
    trainer: Any = module.trainer
    data = datamodule_of(trainer)
    if isinstance(data, DataModule) and isinstance(module, TrainingModule):
        batches = _drawn(data, count, rows, key)
    else:
        batches = _parts(trainer.train_dataloader, rows)
    random = capture_rng()
    try:
        for batch in islice(batches, count):
            batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
            with evaluation_mode(module), torch.enable_grad():
                with trainer.precision_plugin.train_step_context():
                    loss = _loss(module, batch)
                found = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            gradients = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, found, strict=True)
            ]
            yield average_over_ranks(gradients)
    finally:
        restore_rng(random)


def _drawn(data: DataModule, count: int, rows: int, key: Sequence[int | str]) -> Iterator[Any]:
    """Yield batches of rows in random order, pass after pass where there are too few."""
    total = len(data.train_set)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(stable_seed(data.seed, *key))
    passes = [torch.randperm(total, generator=generator) for _ in range(-(-count * rows // total))]
    order = torch.cat(passes)[: count * rows].tolist()
    yield from data.ordered_train_dataloader(order, batch_size=rows)


def _parts(loader: Any, rows: int) -> Iterator[Any]:
    """Yield parts of a loader's batches, as many rows on each rank."""
    if getattr(loader, "persistent_workers", False):
        raise IncompatibleError(
            "The training loader has persistent_workers, and with them one iterator, which is "
            "that of training: set them to false, or take a trimtab DataModule."
        )
    size = -(-rows // world_size())
    found = True
    # pass after pass where there are too few
    while found:
        found = False
        for batch in loader:
            leaves = [x for x in tree_leaves(batch) if isinstance(x, Tensor) and x.ndim]
            total = len(leaves[0]) if leaves else 0
            found |= total > 0
            for first in range(0, total, size):
                cut = partial(_rows_of, total=total, own=slice(first, first + size))
                yield tree_map_only(Tensor, cut, batch)


def _rows_of(x: Tensor, total: int, own: slice) -> Tensor:
    return x[own] if x.ndim and len(x) == total else x


def _loss(module: LightningModule, batch: Any) -> Tensor:
    if isinstance(module, TrainingModule):
        objectives = module.guide_objectives(module.fields_of(batch))
        return reduce_objectives(objectives).total
    with _unlogged(module):
        result: Any = module.training_step(batch, 0)
    loss = result["loss"] if isinstance(result, dict) else result
    if not isinstance(loss, Tensor):
        raise IncompatibleError(
            f"The training_step of {type(module).__name__} returns no loss, whose gradient is "
            "needed."
        )
    return loss


@contextmanager
def _unlogged(module: LightningModule) -> Iterator[None]:
    """Let what a module logs go nowhere."""
    names = ("log", "log_dict")
    for name in names:
        module.__dict__[name] = lambda *_, **__: None
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]
