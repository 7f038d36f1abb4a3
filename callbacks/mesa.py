"""Memory-efficient sharpness-aware training (MESA): SAF's term against averaged weights."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from callbacks.after_step import AfterStep
from framework.data.datasets import Batch
from framework.losses.averaged_model import AveragedModelLoss, Buffers, check_average
from framework.losses.trajectory import check_divergence_term, is_active
from framework.objectives.objectives import Objectives
from framework.training.compatibility import require, require_logits
from framework.training.module import TrainingModule
from framework.training.objectives_callback import ObjectivesCallback


class MESA(AfterStep, ObjectivesCallback):
    """Adds ``weight * temperature**2 * KL(average || now)`` against an average of the weights.

    The term is ``framework.losses.AveragedModelLoss``, which serves any training loop and any
    ``LightningModule``; this callback adds it to a ``TrainingModule``, moves the average after
    every optimizer step, and keeps it in checkpoints.

    Paper: Du et al., *Sharpness-Aware Training for Free*, NeurIPS 2022, arXiv:2205.14083.

    Args:
        weight: Factor lambda of the term in the loss.
        temperature: Divisor tau of the logits.
        decay: Factor beta of the average; for S steps keep ``1 / (1 - beta)`` below S / 20.
        start_epoch: Last epoch, from 0, before the term is active.
        end_epoch: First epoch after the term was active; None for the end of the run.
        warmup: Faster average at first: ``min(beta, (1 + t) / (10 + t))`` takes the place of beta
            in the t-th optimizer step, from 1.
        buffers: Treatment of batch-norm statistics: ``ema`` averages them, ``copy`` takes the
            latest.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: Predictions that are not logits, or weights in half precision, which
            are too coarse for an average with this decay.

    Example:
        >>> MESA(decay=0.999).decay
        0.999
    """

    needs = ("predictions",)
    whole_parameters = True

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
        check_divergence_term(weight, temperature, start_epoch, end_epoch)
        check_average(decay, buffers)
        self.weight = weight
        self.temperature = temperature
        self.decay = decay
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.warmup = warmup
        self.buffers: Buffers = buffers
        self.term: AveragedModelLoss | None = None
        self._loaded: dict[str, Any] | None = None

    @property
    def average(self) -> nn.Module | None:
        """The network with averaged weights, also after the fit; None before it."""
        return None if self.term is None else self.term.average

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module whose predictions are no logits."""
        module = require(
            self,
            pl_module,
            TrainingModule,
            "a TrainingModule",
            "add framework.losses.AveragedModelLoss to the loss in its training_step",
        )
        if stage == "fit" and module.prediction_shape is not None:
            require_logits(self, module, module.prediction_shape)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the weights, which by now have their device and precision."""
        assert isinstance(pl_module, TrainingModule)
        self.term = AveragedModelLoss(
            pl_module,
            self.decay,
            weight=self.weight,
            temperature=self.temperature,
            start_epoch=self.start_epoch,
            end_epoch=self.end_epoch,
            warmup=self.warmup,
            buffers=self.buffers,
        )
        # by a head with averaged weights, where the module has one
        assert isinstance(self.term.average, TrainingModule)
        self.term.logits_of = self.term.average.predictions_of
        if self._loaded is not None:
            self.term.average.load_state_dict(self._loaded["average"])
            self.term.updates = self._loaded["moves"]
            self._loaded = None

    def active(self, epoch: int) -> bool:
        """Return whether the term counts in this epoch, from 0."""
        return is_active(epoch, self.start_epoch, self.end_epoch)

    def on_objectives(
        self, trainer: Trainer, module: TrainingModule, objectives: Objectives, batch: Batch
    ) -> None:
        """Add the term ``mesa``."""
        if not self.active(trainer.current_epoch):
            return
        assert self.term is not None
        assert objectives.predictions is not None
        inputs = module.forward_inputs(batch)
        objectives.per_sample["mesa"] = self.term.compare(inputs, objectives.predictions)
        objectives.weights["mesa"] = self.weight

    def after_step(self, pl_module: LightningModule) -> None:
        """Move the average."""
        assert self.term is not None
        self.term.update(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and how often they moved."""
        if self.term is None:
            return {}
        return {"average": self.term.average.state_dict(), "moves": self.term.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the averaged weights until training starts."""
        self._loaded = state_dict or None
