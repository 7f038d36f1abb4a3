"""Memory-efficient sharpness-aware training (MESA): SAF's term against averaged weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from framework.data import Batch
from framework.losses.trajectory import trajectory_divergence
from framework.module import Dynamics, TrainingModule
from framework.objectives import Objectives


class MESA(Dynamics):
    """Adds ``weight * temperature**2 * KL(average || now)`` against an average of the weights.

    The target are the outputs of an exponential moving average of the weights (EMA) on the same
    batch, in evaluation mode and without gradient: one further forward pass, no memory per sample.
    The average moves after every optimizer step.

    Source: Du et al., Sharpness-Aware Training for Free, NeurIPS 2022, arXiv 2205.14083. As the
    authors' code and unlike the paper's formula, the term carries ``temperature**2``.

    Args:
        weight: lambda, the term's weight in the loss.
        temperature: tau.
        decay: beta of the average; for runs of S steps keep ``1 / (1 - beta)`` below S / 20.
        start_epoch: the term is active in epochs e with ``start_epoch < e < end_epoch``, from 0.
        end_epoch: None is the end of the run.
        warmup: let the average move faster at first, by ``min(beta, (1 + t) / (10 + t))``.
        buffers: ``ema`` averages batch-norm statistics too, ``copy`` takes the latest.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> MESA(decay=0.999).decay
        0.999
    """

    needs = ("predictions",)

    def __init__(
        self,
        weight: float = 0.8,
        temperature: float = 5.0,
        decay: float = 0.9995,
        start_epoch: int = 5,
        end_epoch: int | None = None,
        warmup: bool = True,
        buffers: Literal["ema", "copy"] = "ema",
    ) -> None:
        if weight < 0:
            raise ValueError(f"MESA: weight must not be negative, got {weight}.")
        if temperature <= 0:
            raise ValueError(f"MESA: temperature must be positive, got {temperature}.")
        if not 0 <= decay < 1:
            raise ValueError(f"MESA: decay must be in [0, 1), got {decay}.")
        self.weight = weight
        self.temperature = temperature
        self.decay = decay
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.warmup = warmup
        self.buffers = buffers
        self.average: AveragedModel | None = None
        self._loaded: dict[str, Any] | None = None
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the weights, which by now have their device and precision."""
        self.average = AveragedModel(
            pl_module, multi_avg_fn=self._move, use_buffers=self.buffers == "ema"
        )
        self.average.eval().requires_grad_(False)
        if self._loaded is not None:
            self.average.load_state_dict(self._loaded)
            self._loaded = None
        else:
            # the copy is the average's first value; torch would overwrite it at the first step
            self.average.n_averaged.fill_(1)

    def _move(
        self, averaged: list[Tensor], current: list[Tensor], moved: Tensor | int
    ) -> None:
        # torch groups by data type, and counters such as num_batches_tracked have no average
        if not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
            return
        steps = int(moved)
        decay = min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimizer steps from where the run stands."""
        self._step = trainer.global_step

    def active(self, epoch: int) -> bool:
        """Return whether the term counts in this epoch, from 0."""
        return self.start_epoch < epoch and (self.end_epoch is None or epoch < self.end_epoch)

    def on_objectives(
        self, trainer: Trainer, module: TrainingModule, objectives: Objectives, batch: Batch
    ) -> None:
        """Add the term ``mesa``."""
        if not self.active(trainer.current_epoch):
            return
        assert self.average is not None
        assert objectives.predictions is not None
        with torch.no_grad():
            past = self.average.module(*module.forward_inputs(batch))
        objectives.per_sample["mesa"] = trajectory_divergence(
            objectives.predictions, past, self.temperature
        )
        objectives.weights["mesa"] = self.weight

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the average, once per optimizer step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            assert self.average is not None
            self.average.update_parameters(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release the copy."""
        self.average = None

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights."""
        return {} if self.average is None else {"average": self.average.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averaged weights until training starts."""
        self._loaded = state_dict.get("average")
