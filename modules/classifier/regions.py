"""The decision regions of a classifier of two inputs, over its training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import IterableDataset

from framework.figures.decision_regions import decision_regions
from framework.training.module import TrainingModule
from framework.utilities.evaluation_mode import evaluation_mode

MOST_POINTS = 1000
"""Training rows that are drawn, the first ones."""


def region_figures(
    module: TrainingModule, input_shape: Sequence[int], class_names: Sequence[str] | None
) -> dict[str, Figure]:
    """Return the decision regions, or nothing where an input has other than two numbers.

    Args:
        module: Module from inputs (B, *input_shape) to logits (B, K), attached to its data.
        input_shape: Shape of an input.
        class_names: Names of the K classes.
    """
    rows: Any = getattr(module.datamodule, "plain_train_set", None)
    rows = getattr(module.datamodule, "train_set", None) if rows is None else rows
    if math.prod(input_shape) != 2 or rows is None or isinstance(rows, IterableDataset):
        return {}
    samples = [rows[k] for k in range(min(len(rows), MOST_POINTS))]
    if not samples:
        return {}
    points = torch.stack([sample["image"].flatten() for sample in samples])
    label = torch.stack([torch.as_tensor(sample["label"]) for sample in samples])
    like = next(module.parameters())

    def probability(x: Tensor) -> Tensor:
        return module(x.to(like).view(-1, *input_shape)).float().softmax(-1)

    with evaluation_mode(module):
        return {"decision_regions": decision_regions(probability, points, label, class_names)}
