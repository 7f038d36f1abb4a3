"""Sharpness-aware training for free (SAF): penalize the drop of the loss along the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import IterableDataset

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import barrier
from framework.distributed.sample_state import SampleState
from framework.losses.trajectory import (
    TrajectoryLoss,
    check_divergence_term,
    check_lag,
    is_active,
)
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.compatibility import (
    check_needs,
    require,
    require_alone,
    require_logits,
)
from framework.training.module import TrainingModule
from framework.training.objectives_callback import ObjectivesCallback
from framework.utilities.checks import check_one_of
from framework.utilities.lightning_internals import datamodule_of

Storage = Literal["auto", "device", "cpu", "memmap", "exchange"]
Precision = Literal["float16", "float32", "float64"]
Saved = Literal["sharded", "none"]


class SAF(ObjectivesCallback):
    """Adds ``weight * temperature**2 * KL(past || now)`` between a sample's outputs of two epochs.

    The term is ``framework.losses.TrajectoryLoss``, which serves any training loop and any
    ``LightningModule``; this callback adds it to a ``TrainingModule``, chooses where the history
    lies, and keeps it in checkpoints. The term is the sum over rows with an entry divided by the
    rows of the global batch.

    Logs ``saf`` (the term) and ``saf_valid`` (the fraction of rows with an entry).

    Paper: Du et al., *Sharpness-Aware Training for Free*, NeurIPS 2022, arXiv:2205.14083.

    Args:
        weight: Factor lambda of the term in the loss.
        temperature: Divisor tau of the logits.
        lag_epochs: Epochs between the target and now.
        start_epoch: Last epoch, from 0, before the term is active.
        end_epoch: First epoch after the term was active; None for the end of the run.
        storage: Place of the history. ``memmap``: one file per node, shared by its ranks;
            ``exchange``: row i on rank ``i % W``, exchanged at each step; ``device`` and ``cpu``:
            in this process's memory, which needs one process or ``data.shards`` (a fixed
            assignment of samples to ranks); ``auto`` chooses.
        dtype: Type of the history; float16 halves its N x (lag + 1) x C numbers.
        save_history: Treatment of the history in checkpoints: ``sharded`` keeps it in side files;
            with ``none`` a resumed run goes without the term for ``lag_epochs`` epochs.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: Mixed samples, data without an index, predictions that are not logits of
            one fixed shape, a history of one process on several, or a second SAF.

    Example:
        >>> SAF(weight=0.3, lag_epochs=3).weight
        0.3
    """

    needs = ("predictions", "index")

    def __init__(
        self,
        weight: float = 0.3,
        temperature: float = 5.0,
        lag_epochs: int = 3,
        start_epoch: int = 5,
        end_epoch: int | None = None,
        storage: Storage = "auto",
        dtype: Precision = "float16",
        save_history: Saved = "sharded",
    ) -> None:
        check_divergence_term(weight, temperature, start_epoch, end_epoch)
        check_lag(lag_epochs, start_epoch)
        check_one_of(get_args(Storage), storage=storage)
        check_one_of(get_args(Precision), dtype=dtype)
        check_one_of(get_args(Saved), save_history=save_history)
        self.weight = weight
        self.temperature = temperature
        self.lag_epochs = lag_epochs
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.storage = storage
        self.dtype = getattr(torch, dtype)
        self.save_history = save_history
        self.term: TrajectoryLoss | None = None
        # the tables of the term, which checkpoints hold under these names
        self.history: list[SampleState] = []
        self.written: list[SampleState] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what has no past of its own, and allocate the history."""
        if stage != "fit":
            return
        data, shape = self._checked(trainer, pl_module)
        layout, device = self._placement(trainer, data, shape)
        self.term = TrajectoryLoss(
            data.num_samples,
            shape,
            self.lag_epochs,
            weight=self.weight,
            temperature=self.temperature,
            start_epoch=self.start_epoch,
            end_epoch=self.end_epoch,
            dtype=self.dtype,
            device=device,
            layout=layout,
            shards=data.shards if layout == "local" else None,
            directory=Path(trainer.default_root_dir) if layout == "memmap" else None,
        )
        self.history, self.written = self.term.history, self.term.written
        for state in [*self.history, *self.written]:
            state.persistent = self.save_history == "sharded"

    def _checked(
        self, trainer: Trainer, module: LightningModule
    ) -> tuple[DataModule, tuple[int, ...]]:
        """Return the data and the shape of a prediction, or refuse them."""
        training = require(
            self,
            module,
            TrainingModule,
            "a TrainingModule",
            "add framework.losses.TrajectoryLoss to the loss in its training_step",
        )
        require_alone(self, training.objectives_callbacks)
        check_needs(self, self.needs, training, training.provides)
        data = datamodule_of(trainer)
        if not isinstance(data, DataModule) or isinstance(data.train_set, IterableDataset):
            raise IncompatibleError(
                "SAF remembers every training sample and needs a trimtab DataModule with a "
                "map-style data set; MESA works with any data."
            )
        if data.mixes_samples:
            raise IncompatibleError(
                "SAF cannot be combined with mixup: the output of a mixed sample belongs to no "
                "single sample. Use MESA, or switch mixup off."
            )
        shape = training.prediction_shape
        if shape is None:
            raise IncompatibleError(
                f"SAF needs predictions of one fixed shape, which {type(module).__name__} does "
                "not have; use MESA."
            )
        require_logits(self, training, shape)
        return data, shape

    def _placement(
        self, trainer: Trainer, data: DataModule, shape: tuple[int, ...]
    ) -> tuple[Literal["local", "memmap", "exchange"], torch.device]:
        cpu = torch.device("cpu")
        ranks, storage = trainer.world_size, self.storage
        alone = ranks == 1 or data.shards is not None
        if storage == "auto":
            storage = "memmap" if trainer.num_nodes == 1 else "exchange"
            if alone:
                storage = "device" if self._fits(trainer, data, shape) else "cpu"
        if storage in ("device", "cpu"):
            if not alone:
                raise IncompatibleError(
                    f"SAF: storage={storage!r} on {ranks} ranks needs a fixed assignment of "
                    f"samples to ranks: set data.shards={ranks}, or use memmap or exchange."
                )
            return "local", trainer.strategy.root_device if storage == "device" else cpu
        if storage == "memmap":
            return "memmap", cpu
        return "exchange", trainer.strategy.root_device

    def _fits(self, trainer: Trainer, data: DataModule, shape: tuple[int, ...]) -> bool:
        device = trainer.strategy.root_device
        if device.type != "cuda":
            return True
        elements = data.num_samples * (self.lag_epochs + 1) * torch.Size(shape).numel()
        free, _ = torch.cuda.mem_get_info(device)
        return elements * self.dtype.itemsize < 0.1 * free

    def active(self, epoch: int) -> bool:
        """Return whether the term counts in this epoch, from 0."""
        return is_active(epoch, self.start_epoch, self.end_epoch)

    def on_objectives(
        self, trainer: Trainer, module: TrainingModule, objectives: Objectives, batch: Batch
    ) -> None:
        """Add the term ``saf``, then remember this epoch's outputs."""
        assert self.term is not None
        assert objectives.predictions is not None
        assert objectives.index is not None
        step = objectives.predictions, objectives.index, trainer.current_epoch
        found = self.term.compare(*step)
        if found is not None:
            divergence, valid = found
            objectives.per_sample["saf"] = divergence
            objectives.weights["saf"] = self.weight
            objectives.logs["saf_valid"] = valid.float().mean()
        self.term.remember(*step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let every rank finish writing before another epoch reads."""
        barrier()

    def reset(self) -> None:
        """Forget all outputs, as when labels change and the past is no target any more."""
        if self.term is not None:
            self.term.reset()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the history."""
        self.term, self.history, self.written = None, [], []
