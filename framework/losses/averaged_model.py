"""A loss that compares a network with the average of its own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.losses.trajectory import (
    check_divergence_term,
    check_epoch,
    is_active,
    trajectory_divergence,
)
from framework.objectives.errors import IncompatibleError
from framework.ops.moving_average import infinite_ones, move_average, why_too_coarse
from framework.utilities.checks import check_interval, check_one_of
from framework.utilities.module_copy import copy_module
from framework.utilities.precision import at_least_float32

Buffers = Literal["ema", "copy"]


def check_average(decay: float, buffers: str) -> None:
    """Raise ``ValueError`` unless the arguments of an average of weights are in range."""
    check_interval("[0, 1)", decay=decay)
    check_one_of(get_args(Buffers), buffers=buffers)


class AveragedModelLoss(nn.Module):
    """Term of MESA: the divergence from an exponential moving average of the weights (EMA).

    The target are the logits of the averaged network on the same batch, in evaluation mode and
    without gradient: one further forward pass, no memory per sample. ``update(model)`` moves the
    average and is called after every optimizer step. In evaluation mode the term is zero.

    Paper: Du et al., *Sharpness-Aware Training for Free*, NeurIPS 2022, arXiv:2205.14083. As the
    authors' code and unlike the paper's formula, the term carries ``temperature**2``.

    Args:
        model: Network whose weights are averaged; it is copied, on its device and in its precision,
            without ``torch.compile``.
        decay: Factor beta of the average; for S steps keep ``1 / (1 - beta)`` below S / 20.
        weight: Factor lambda of the term.
        temperature: Divisor tau of the logits.
        start_epoch: Last epoch, from 0, before the term is active.
        end_epoch: First epoch after the term was active; None for the end of the run.
        warmup: Faster average at first: ``min(beta, (1 + t) / (10 + t))`` takes the place of beta
            in the t-th update, from 1.
        buffers: Treatment of batch-norm statistics: ``ema`` averages them, ``copy`` takes the
            latest.
        logits_of: Function from what the model returns to its logits; None for a model that
            returns logits.

    Raises:
        ValueError: An argument is out of range.
        IncompatibleError: The weights are in half precision, too coarse for this decay.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> mesa = AveragedModelLoss(model, decay=0.9, start_epoch=-1)
        >>> inputs = torch.ones(2, 4)
        >>> mesa(inputs, model(inputs), epoch=0).item()
        0.0
        >>> mesa.update(model)
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.9995,
        *,
        weight: float = 0.8,
        temperature: float = 5.0,
        start_epoch: int = 5,
        end_epoch: int | None = None,
        warmup: bool = True,
        buffers: Buffers = "ema",
        logits_of: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_divergence_term(weight, temperature, start_epoch, end_epoch)
        check_average(decay, buffers)
        if (reason := why_too_coarse(model.parameters(), decay)) is not None:
            raise IncompatibleError(reason)
        self.decay = decay
        self.weight = weight
        self.temperature = temperature
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.warmup = warmup
        self.averages_buffers = buffers == "ema"
        self.logits_of = logits_of
        self.average = copy_module(model).eval().requires_grad_(False)
        """Network with averaged weights."""
        self._copied = infinite_ones(self.average.buffers())
        self.updates = 0
        """Number of optimizer steps that the average has followed."""

    def train(self, mode: bool = True) -> AveragedModelLoss:
        """Set the mode of the term; the averaged network stays in evaluation mode."""
        super().train(mode)
        self.average.eval()
        return self

    def forward(self, inputs: Any, logits: Tensor, epoch: int) -> Tensor:
        """Return the weighted term, the mean over the batch.

        Args:
            inputs: What the model takes; a tuple stands for several arguments.
            logits: Predictions (B, ..., C) of the model for these inputs, with gradient.
            epoch: Number of the epoch, from 0.

        Returns:
            Scalar; a constant zero in epochs in which the term is not active.

        Raises:
            ValueError: Logits of another shape than the average gives, or an epoch that is no
                integer from 0.
        """
        check_epoch(epoch)
        if not (self.training and self.active(epoch)):
            return at_least_float32(logits).new_zeros(())
        return self.weight * self.compare(inputs, logits).sum() / max(1, len(logits))

    def active(self, epoch: int) -> bool:
        """Return whether the term counts in this epoch, from 0."""
        return is_active(epoch, self.start_epoch, self.end_epoch)

    def compare(self, inputs: Any, logits: Tensor) -> Tensor:
        """Return the divergence (B,) from the averaged network, without the weight."""
        with torch.no_grad():
            past = self.average(*inputs) if isinstance(inputs, tuple) else self.average(inputs)
            if self.logits_of is not None:
                past = self.logits_of(past)
        return trajectory_divergence(logits, past, self.temperature)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``, after an optimizer step.

        Raises:
            ValueError: Another model than the average was made from.
        """
        parts = [
            (part, list(getattr(self.average, part)()), list(getattr(model, part)()))
            for part in ("parameters", "buffers")
        ]
        for part, own, new in parts:
            if [one.shape for one in own] != [one.shape for one in new]:
                raise ValueError(
                    f"update takes the model that the average was made from: the {part} of this "
                    f"{type(model).__name__} have other shapes or another number."
                )
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        for part, own, new in parts:
            keeps = part == "parameters" or self.averages_buffers
            copied = self._copied if part == "buffers" else ()
            move_average(own, new, decay if keeps else 0.0, copied)

    def get_extra_state(self) -> dict[str, int]:
        """Return the number of updates, for ``state_dict``."""
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore what ``get_extra_state`` returned."""
        self.updates = state["updates"]
