"""A pass over samples between epochs, for methods that look at a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from framework.data.datasets import Batch
from framework.distributed.collectives import gather
from framework.utilities.evaluation_mode import evaluation_mode


@torch.no_grad()
def visit(module: LightningModule, loader: Iterable[Batch], look: Callable[[Batch], None]) -> None:
    """Call ``look`` with every batch of a loader, in evaluation mode and without gradient.

    Args:
        module: Module attached to a Trainer.
        loader: Loader of this rank's part of the batches.
        look: Function called with a batch on the module's device, in the run's precision.
    """
    trainer: Any = module.trainer
    precision = trainer.precision_plugin
    with evaluation_mode(module):
        for batch in loader:
            batch = trainer.strategy.batch_to_device(precision.convert_input(batch))
            # around the computation alone: it changes the default dtype, which data may depend on
            with precision.forward_context():
                look(batch)


def sweep(
    module: LightningModule,
    compute: Callable[[Batch], dict[str, Tensor]],
    rows: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Apply ``compute`` to every training sample, once, in evaluation mode and without gradient.

    Collective: every rank takes its part of the samples and gets the results of all. Neither the
    loaders of training nor any random number generator notices.

    Args:
        module: Module attached to a Trainer with a ``DataModule``.
        compute: Function from a batch of B rows on the module's device, where B may be 0, to
            tensors (B, ...).
        rows: Positions in the datamodule's ``train_set``; default all.

    Returns:
        What ``compute`` returned, (N, ...), and ``index`` (N,) int64, ordered by index.

    Raises:
        ValueError: there are no rows, or one lies outside the training set.
    """
    parts: list[dict[str, Tensor]] = []

    def look(batch: Batch) -> None:
        parts.append({"index": batch["index"], **compute(batch)})

    data: Any = module.trainer.datamodule  # type: ignore[attr-defined]
    visit(module, data.ordered_train_dataloader(rows), look)
    if not parts:
        raise ValueError("sweep: there are no rows to look at.")
    results = {name: gather(torch.cat([part[name] for part in parts])) for name in parts[0]}
    order = results["index"].argsort()
    return {name: value[order] for name, value in results.items()}
