"""Memory-efficient sharpness-aware training (MESA): SAF's term against averaged weights."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer

from framework.data.datasets import Batch
from framework.losses.trajectory import check_logits, trajectory_divergence
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.training.module import TrainingModule
from framework.training.objectives_callback import ObjectivesCallback

Buffers = Literal["ema", "copy"]


class MESA(ObjectivesCallback):
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
        warmup: let the average move faster at first: ``min(beta, (1 + t) / (10 + t))`` takes the
            place of beta in the t-th optimizer step, from 1.
        buffers: ``ema`` averages batch-norm statistics too, ``copy`` takes the latest.

    Raises:
        ValueError: an argument is out of range.
        IncompatibleError: predictions that are not logits, or weights in half precision, which
            are too coarse for an average with this decay.

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
        buffers: Buffers = "ema",
    ) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"MESA: weight must not be negative, got {weight}.")
        if not 0 < temperature < math.inf:
            raise ValueError(f"MESA: temperature must be positive, got {temperature}.")
        if not 0 <= decay < 1:
            raise ValueError(f"MESA: decay must be in [0, 1), got {decay}.")
        if end_epoch is not None and end_epoch <= start_epoch + 1:
            raise ValueError(
                f"MESA: no epoch lies between start_epoch={start_epoch} and end_epoch={end_epoch}."
            )
        if buffers not in get_args(Buffers):
            raise ValueError(
                f"MESA: buffers must be one of {', '.join(get_args(Buffers))}, got {buffers!r}."
            )
        self.weight = weight
        self.temperature = temperature
        self.decay = decay
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.warmup = warmup
        self.buffers = buffers
        self.average: TrainingModule | None = None
        """The network with averaged weights, also after the fit."""
        self._moves = 0
        self._loaded: dict[str, Any] | None = None
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module whose predictions are no logits."""
        if not isinstance(pl_module, TrainingModule):
            raise IncompatibleError(
                f"MESA adds a term to a TrainingModule, which {type(pl_module).__name__} is not."
            )
        if stage == "fit" and pl_module.prediction_shape is not None:
            check_logits(pl_module.prediction_shape)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the weights, which by now have their device and precision."""
        assert isinstance(pl_module, TrainingModule)
        for dtype in {p.dtype for p in pl_module.parameters() if p.is_floating_point()}:
            if 1 - self.decay < torch.finfo(dtype).eps:
                raise IncompatibleError(
                    f"MESA: weights in {dtype} are too coarse for an average with "
                    f"decay={self.decay}; keep them in float32, as precision bf16-mixed does."
                )
        self.average = deepcopy(pl_module).eval().requires_grad_(False)
        self._moves = 0
        if self._loaded is not None:
            self.average.load_state_dict(self._loaded["average"])
            self._moves = self._loaded["moves"]
            self._loaded = None

    @torch.no_grad()
    def _move(self, module: LightningModule) -> None:
        """Take one step of the average."""
        assert self.average is not None
        self._moves += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self._moves) / (10 + self._moves))
        averaged, latest = [], []
        for part in ("parameters", "buffers"):
            own, new = getattr(self.average, part)(), getattr(module, part)()
            for mine, theirs in zip(own, new, strict=True):
                # counters such as num_batches_tracked have no average
                has_average = mine.is_floating_point() or mine.is_complex()
                if has_average and (part == "parameters" or self.buffers == "ema"):
                    averaged.append(mine)
                    latest.append(theirs)
                else:
                    mine.copy_(theirs)
        # not torch's AveragedModel, whose counter makes a GPU wait at every step
        torch._foreach_lerp_(averaged, latest, 1 - decay)

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
            past = module.predictions_of(self.average(*module.forward_inputs(batch)))
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
            self._move(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and how often they moved."""
        if self.average is None:
            return {}
        return {"average": self.average.state_dict(), "moves": self._moves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averaged weights until training starts."""
        self._loaded = state_dict or None
