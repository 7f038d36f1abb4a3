"""The values that a loss needs beside predictions and targets, in one step of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from framework.objectives.objectives import Objectives
from framework.utilities.lightning_internals import micro_batch_of, trainer_of


def values_for(
    loss: _Loss,
    module: Any,
    objectives: Objectives,
    predictions: Tensor,
    inputs: Tensor | None,
    forward: Callable[..., Any],
) -> dict[str, Any]:
    """Return the value of each of a loss's ``needs``; None where this step has none.

    Args:
        loss: Loss of torch or Trimtab.
        module: ``TrainingModule`` of the step.
        objectives: Objectives of the step.
        predictions: Predictions (B, ...).
        inputs: Input of the network.
        forward: Function that predicts for other inputs.
    """
    values: dict[str, Any] = {}
    for need in getattr(loss, "needs", ()):
        if need == "weight":
            weight = objectives.sample_weight
            ones = predictions.new_ones(len(predictions))
            values[need] = ones if weight is None else weight
        elif need in ("index", "features"):
            values[need] = getattr(objectives, need)
        elif need == "micro_batch":
            values[need] = micro_batch_of(trainer_of(module))
        elif need == "group" and objectives.group is not None:
            values[need] = objectives.group
        elif need == "group":
            # in evaluation a row is a group of its own
            values[need] = torch.arange(len(predictions), device=predictions.device)
        else:
            others = {
                "inputs": inputs,
                "epoch": module.current_epoch,
                "step": module.global_step,
                "forward": forward,
            }
            values[need] = others[need]
    return values
