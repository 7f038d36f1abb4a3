"""A fixed set of training rows, at which a run is looked at in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils._pytree import tree_leaves

from framework.data.datasets import Batch, root_and_rows
from framework.distributed.averages import average_over_ranks
from framework.distributed.collectives import gather, rank, world_size
from framework.dynamics.sharpness import hessian_top_eigenvalue
from framework.objectives.errors import IncompatibleError
from framework.training.compatibility import check_needs
from framework.training.module import TrainingModule
from framework.training.training_rows import rows_of_step, training_rows
from framework.utilities.checks import check_at_least
from framework.utilities.evaluation_mode import evaluation_mode
from framework.utilities.randomness import capture_rng, restore_rng, seeded, stable_seed

MOST_ON_DEVICE = 1 << 28
"""Bytes of rows that stay on the device; more are moved there for every look."""


class Probe:
    """Rows of the training set that are read once, and their losses under the present parameters.

    Each rank holds its part of every batch. A look is in evaluation mode and changes nothing: no
    parameter or its gradient, no buffer and no global random number.

    The loss of a row is the weighted sum of the ``per_sample`` terms of a ``TrainingModule``, as
    its ``objectives`` returns them, without what callbacks add; of any other ``LightningModule``
    what its method ``per_sample_losses(batch)`` returns, (B,).

    Args:
        module: Module attached to a Trainer, whose training is about to start.
        size: Largest number of rows N; where the training set has more, they are drawn by a seed
            that depends on its size alone.
        owner: Object that looks, for messages.
        batch_size: Rows of a batch over all ranks.

    Raises:
        IncompatibleError: Data without positions, or fewer than two rows; or see
            ``check_probed``.
    """

    def __init__(
        self, module: LightningModule, size: int, owner: object, batch_size: int = 500
    ) -> None:
        check_at_least(2, size=size)
        self.module = module
        self._losses = check_probed(module, owner)
        dataset, self._read = training_rows(module, owner)
        rows = len(dataset)
        if rows < 2:
            raise IncompatibleError(
                f"{type(owner).__name__} compares training rows, and there are {rows}."
            )
        generator = torch.Generator().manual_seed(stable_seed("probe", rows))
        chosen = torch.randperm(rows, generator=generator)[:size].sort().values
        self.rows: list[int] = chosen.tolist()
        """Positions of the rows in the data set, ascending."""
        self.index: list[int] = root_and_rows(dataset, self.rows)[1]
        """Positions of the rows in the full training set, the ``index`` of a batch."""
        self._own = [_own_part(part) for part in torch.arange(len(chosen)).split(batch_size)]
        self.rows_of_step = rows_of_step(module)
        """Rows of a batch of training over all ranks."""
        batches = [self.read(places.tolist()) for places in self._own]
        self._on_device = sum(map(_bytes, batches)) <= MOST_ON_DEVICE
        with self._looking():
            self._batches = [self._moved(b) for b in batches] if self._on_device else batches

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, places: Sequence[int]) -> Batch:
        """Return some rows as a batch on the CPU, without augmentation; not collective.

        Args:
            places: Places of the rows in the probe.
        """
        return self._read([self.rows[place] for place in places])

    def losses(self) -> Tensor:
        """Return the losses (N,) of all rows, float64 on the CPU. Collective."""
        parts = []
        with torch.no_grad(), self._looking():
            for batch, places in zip(self._batches, self._own, strict=True):
                value = self._of(batch, len(places)).double()
                parts.append(torch.stack([places.to(value.device).double(), value]))
        places, values = gather(torch.cat(parts, 1).T).T.cpu()
        return values[places.argsort()]

    def sharpness(self, tolerance: float = 1e-2) -> float:
        """Return the largest eigenvalue of the Hessian of the mean loss. Collective.

        Args:
            tolerance: Relative accuracy of the eigenvalue.
        """
        with self._looking():
            return hessian_top_eigenvalue(self._parts, self.parameters, tolerance=tolerance)

    def gradients(self, *groups: Tensor) -> list[list[Tensor]]:
        """Return the gradients of the summed losses of groups of rows. Collective.

        Args:
            *groups: Places of the rows of each group.

        Returns:
            For each group one tensor per trainable parameter.
        """
        parameters = self.parameters
        total = [[torch.zeros_like(p) for p in parameters] for _ in groups]
        with torch.enable_grad(), self._looking():
            for batch, own in zip(self._batches, self._own, strict=True):
                # rows group by group, so that no mask makes a GPU wait
                rows = [torch.isin(own, group).nonzero().flatten() for group in groups]
                if not sum(map(len, rows)):
                    continue
                part = _rows_of(batch, torch.cat(rows))
                if part is None:
                    losses = self._of(batch, len(own))
                    parts = [losses[row] for row in rows]
                else:
                    sizes = [len(row) for row in rows]
                    parts = list(self._of(part, sum(sizes)).split(sizes))
                for sums, values in zip(total, parts, strict=True):
                    if len(values) and values.requires_grad:
                        found = torch.autograd.grad(
                            values.sum(), parameters, retain_graph=True, materialize_grads=True
                        )
                        torch._foreach_add_(sums, found)
        return [[g * world_size() for g in average_over_ranks(sums)] for sums in total]

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def _parts(self) -> Iterator[Tensor]:
        """Yield this rank's parts of the mean loss, whose mean over ranks is that of all rows."""
        scale = world_size() / len(self)
        for batch, places in zip(self._batches, self._own, strict=True):
            with torch.enable_grad():
                part = self._of(batch, len(places)).sum() * scale
            yield part

    def _of(self, batch: Batch, rows: int) -> Tensor:
        """Return the losses of the rows of a batch."""
        precision = self.module.trainer.precision_plugin
        batch = batch if self._on_device else self._moved(batch)
        with precision.forward_context():
            losses = self._losses(batch)
        if losses.shape != (rows,):
            raise IncompatibleError(
                f"The losses of {rows} rows of {type(self.module).__name__} have the shape "
                f"{tuple(losses.shape)}: a probe needs one value per row."
            )
        return losses

    def _moved(self, batch: Batch) -> Batch:
        """Return a batch in the precision and on the device of the run."""
        trainer: Any = self.module.trainer
        batch = trainer.precision_plugin.convert_input(batch)
        # hooks of the module may draw, and the rows stay the same
        with seeded("probe"):
            return trainer.strategy.batch_to_device(batch)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        state = capture_rng()
        try:
            with evaluation_mode(self.module):
                yield
        finally:
            restore_rng(state)


def check_probed(module: LightningModule, owner: object) -> Callable[[Batch], Tensor]:
    """Return the function from a batch to the losses (B,) of its rows.

    Args:
        module: Module.
        owner: Object that needs them, for messages.

    Raises:
        IncompatibleError: The module has no loss per sample.
    """
    own = getattr(module, "per_sample_losses", None)
    if own is not None:
        return own
    if not isinstance(module, TrainingModule):
        raise IncompatibleError(
            f"{type(owner).__name__} needs the loss of each sample: give {type(module).__name__} a "
            "method per_sample_losses(batch) that returns them, (B,)."
        )
    check_needs(owner, ("per_sample",), module, module.provides)

    def losses(batch: Batch) -> Tensor:
        objectives = module.objectives(module.fields_of(batch))
        weights = objectives.weights
        terms = [weights.get(name, 1.0) * v for name, v in objectives.per_sample.items()]
        return torch.stack(terms).sum(0)

    return losses


def _own_part(places: Tensor) -> Tensor:
    """Return this rank's contiguous part of a batch; parts differ by at most one row."""
    return places.tensor_split(world_size())[rank()]


def _rows_of(batch: Any, rows: Tensor) -> Any:
    """Return some rows of a batch, or None where its fields have other numbers of rows."""
    if isinstance(batch, dict):
        sizes = {len(v) if isinstance(v, Tensor) and v.ndim else -1 for v in batch.values()}
        if len(sizes) != 1 or -1 in sizes:
            return None
        return {name: value[rows] for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        found = _rows_of(dict(enumerate(batch)), rows)
        return None if found is None else type(batch)(found.values())
    return None


def _bytes(batch: Any) -> int:
    return sum(x.nbytes for x in tree_leaves(batch) if isinstance(x, Tensor))
