"""Sharpness-aware training for free (SAF): penalize the drop of the loss along the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import IterableDataset

from framework.data.datamodule import DataModule
from framework.data.datasets import Batch
from framework.distributed.collectives import barrier
from framework.distributed.sample_state import SampleState
from framework.losses.trajectory import check_logits, trajectory_divergence
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.compatibility import check_needs
from framework.training.module import TrainingModule
from framework.training.objectives_callback import ObjectivesCallback

Storage = Literal["auto", "device", "cpu", "memmap", "exchange"]
Precision = Literal["float16", "float32", "float64"]
Saved = Literal["sharded", "none"]


class SAF(ObjectivesCallback):
    """Adds ``weight * temperature**2 * KL(past || now)`` between a sample's outputs of two epochs.

    The network's outputs of each training sample are remembered; those of ``lag_epochs`` epochs ago
    are the constant target, so that no further forward or backward pass is needed. Samples without
    an entry of exactly that epoch count as zero, so the term is the sum over valid rows divided by
    the rows of the global batch.

    Source: Du et al., Sharpness-Aware Training for Free, NeurIPS 2022, arXiv 2205.14083. As the
    authors' code and unlike the paper's formula, the term carries ``temperature**2``. Unlike their
    code, whose history is private to a process while samples move between processes, every row is
    found again on any number of ranks, and a row of another epoch is never used.

    Logs ``saf`` (the term) and ``saf_valid`` (the fraction of rows with an entry).

    Args:
        weight: lambda, the term's weight in the loss.
        temperature: tau.
        lag_epochs: how many epochs ago the target was.
        start_epoch: the term is active in epochs e with ``start_epoch < e < end_epoch``, from 0.
        end_epoch: None is the end of the run.
        storage: where the history lies. ``memmap``: one file per node, shared by its ranks;
            ``exchange``: row i on rank ``i % W``, exchanged at each step; ``device`` and ``cpu``:
            in this process's memory, which needs one process or ``data.shards`` (a fixed
            assignment of samples to ranks); ``auto`` chooses.
        dtype: of the history; float16 halves its N x (lag + 1) x C numbers.
        save_history: ``sharded`` keeps it in side files of the checkpoint; with ``none`` a resumed
            run goes without the term for ``lag_epochs`` epochs.

    Raises:
        ValueError: an argument is out of range.
        IncompatibleError: mixed samples, data without an index, predictions that are not logits of
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
        if not 0 <= weight < math.inf:
            raise ValueError(f"SAF: weight must not be negative, got {weight}.")
        if not 0 < temperature < math.inf:
            raise ValueError(f"SAF: temperature must be positive, got {temperature}.")
        if lag_epochs < 1:
            raise ValueError(f"SAF: lag_epochs must be at least 1, got {lag_epochs}.")
        if start_epoch + 1 < lag_epochs:
            raise ValueError(
                f"SAF: with lag_epochs={lag_epochs} nothing is remembered before epoch "
                f"{lag_epochs}; start_epoch must be at least {lag_epochs - 1}, got {start_epoch}."
            )
        if end_epoch is not None and end_epoch <= start_epoch + 1:
            raise ValueError(
                f"SAF: no epoch lies between start_epoch={start_epoch} and end_epoch={end_epoch}."
            )
        for name, value, choices in (
            ("storage", storage, Storage),
            ("dtype", dtype, Precision),
            ("save_history", save_history, Saved),
        ):
            if value not in get_args(choices):
                raise ValueError(
                    f"SAF: {name} must be one of {', '.join(get_args(choices))}, got {value!r}."
                )
        self.weight = weight
        self.temperature = temperature
        self.lag_epochs = lag_epochs
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.storage = storage
        self.dtype = getattr(torch, dtype)
        self.save_history = save_history
        self.history: list[SampleState] = []
        self.written: list[SampleState] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Allocate one table of outputs and one of epochs per slot."""
        if stage != "fit":
            return
        data, shape = self._checked(trainer, pl_module)
        layout, device = self._placement(trainer, data, shape)
        # one slot more than the lag: a read can then never meet a write of the same epoch
        slots = self.lag_epochs + 1

        def table(row: tuple[int, ...], dtype: torch.dtype, fill: float) -> SampleState:
            return SampleState(
                data.num_samples,
                row,
                fill=fill,
                dtype=dtype,
                device=device,
                layout=layout,
                shards=data.shards if layout == "local" else None,
                directory=self._directory(trainer) if layout == "memmap" else None,
            )

        self.history = [table(shape, self.dtype, 0.0) for _ in range(slots)]
        self.written = [table((), torch.int32, -1) for _ in range(slots)]
        for state in [*self.history, *self.written]:
            state.persistent = self.save_history == "sharded"

    def _checked(
        self, trainer: Trainer, module: LightningModule
    ) -> tuple[DataModule, tuple[int, ...]]:
        """Return the data and the shape of a prediction, or refuse them."""
        if not isinstance(module, TrainingModule):
            raise IncompatibleError(
                f"SAF adds a term to a TrainingModule, which {type(module).__name__} is not."
            )
        if any(isinstance(other, SAF) and other is not self for other in module.dynamics):
            raise IncompatibleError("SAF is given twice, but there can be one in a run.")
        check_needs(self, self.needs, module, module.provides)
        data = getattr(trainer, "datamodule", None)
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
        shape = module.prediction_shape
        if shape is None:
            raise IncompatibleError(
                f"SAF needs predictions of one fixed shape, which {type(module).__name__} does "
                "not have; use MESA."
            )
        check_logits(shape)
        return data, shape

    @staticmethod
    def _directory(trainer: Trainer) -> Path:
        directory = Path(trainer.default_root_dir)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

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
        return self.start_epoch < epoch and (self.end_epoch is None or epoch < self.end_epoch)

    def on_objectives(
        self, trainer: Trainer, module: TrainingModule, objectives: Objectives, batch: Batch
    ) -> None:
        """Add the term ``saf``, then remember this epoch's outputs."""
        assert objectives.predictions is not None
        assert objectives.index is not None
        epoch, logits = trainer.current_epoch, objectives.predictions
        slots = len(self.history)
        if self.active(epoch):
            past_epoch = epoch - self.lag_epochs
            slot = past_epoch % slots
            past = self.history[slot].read(objectives.index)
            valid = self.written[slot].read(objectives.index) == past_epoch
            divergence = trajectory_divergence(logits, past, self.temperature)
            objectives.per_sample["saf"] = torch.where(valid, divergence, 0.0)
            objectives.weights["saf"] = self.weight
            objectives.logs["saf_valid"] = valid.float().mean()
        if self.active(epoch + self.lag_epochs):
            outputs = logits.detach().to(self.dtype)
            finite = torch.isfinite(outputs.flatten(1)).all(1)
            outputs = torch.where(finite.view(-1, *[1] * (outputs.ndim - 1)), outputs, 0)
            slot = epoch % slots
            self.history[slot].write(objectives.index, outputs)
            # a row that is not finite counts as never written
            stamp = torch.where(finite, epoch, -1).to(torch.int32)
            self.written[slot].write(objectives.index, stamp)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let every rank finish writing before another epoch reads."""
        barrier()

    def reset(self) -> None:
        """Forget all outputs; call it when labels change and the past is no target any more."""
        for table in self.written:
            table.fill_(-1)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the tables."""
        self.history, self.written = [], []
