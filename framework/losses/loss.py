"""The base class of every loss: what a loss needs, how it reduces, in which precision."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _Loss

from framework.utilities.checks import check_one_of
from framework.utilities.precision import at_least_float32

NEEDS = ("index", "group", "features", "inputs", "weight", "epoch", "step", "forward")
"""What a loss may ask for beside predictions and targets; each is passed as a keyword."""


class Loss(_Loss):
    """A loss called as ``loss(predictions, targets, **needs)``.

    A subclass writes ``per_sample`` (one value per row), or overrides ``compute`` where
    the loss is no sum over samples. Inputs in half precision are computed in float32.

    Class attributes:
        needs: names out of ``index, group, features, inputs, weight, epoch, step, forward`` that
            the loss receives as keywords. ``index`` is (B,) int64 in the full training set,
            ``group`` (B,) int64 the group a row belongs to, such as a bag, ``features`` (B, D),
            ``inputs`` the network's input, ``weight`` (B,), ``epoch`` and ``step`` ints,
            ``forward`` a callable from inputs to predictions.
        batch_coupled: not a sum over samples; sees the global batch and returns the same value on
            every rank.
        monitorable: False if the value means nothing; early stopping on it is refused.

    Args:
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    batch_coupled: ClassVar[bool] = False
    monitorable: ClassVar[bool] = True

    def __init__(self, reduction: str = "mean") -> None:
        check_one_of(("mean", "sum", "none"), reduction=reduction)
        super().__init__(reduction=reduction)

    def setup(self, num_samples: int, num_classes: int | None, device: torch.device) -> None:
        """Allocate per-sample state; called before a checkpoint is restored."""

    def per_sample(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the loss of every row, shape (B,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no per-sample loss.")

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the reduced loss; inputs are float32 or float64 and autocast is off."""
        values = self.per_sample(predictions, targets, **needs)
        if self.reduction == "none":
            return values
        if self.reduction == "sum" or len(values) == 0:
            # an empty batch gives a zero that still reaches every parameter behind predictions
            return values.sum() + predictions.sum() * 0.0 if len(values) == 0 else values.sum()
        return values.mean()

    def forward(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Check the inputs, leave autocast, and compute.

        Args:
            predictions: (B, ...) float.
            targets: (B, ...).
            **needs: Keywords that ``needs`` names, and no others.

        Returns:
            A scalar, or (B,) with ``reduction='none'``.

        Raises:
            ValueError: the numbers of rows differ.
            TypeError: something that ``needs`` names is missing.
        """
        if len(predictions) != len(targets):
            raise ValueError(
                f"{type(self).__name__}: {len(predictions)} rows of predictions but "
                f"{len(targets)} of targets."
            )
        missing = [name for name in self.needs if name not in needs]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)} as keyword.")
        predictions, targets = at_least_float32(predictions), at_least_float32(targets)
        needs = {
            name: at_least_float32(value) if isinstance(value, Tensor) else value
            for name, value in needs.items()
        }
        with torch.autocast(device_type=predictions.device.type, enabled=False):
            return self.compute(predictions, targets, **needs)


class ClassificationLoss(Loss):
    """A loss on logits of shape (B, K) and class labels.

    Labels are (B,) int64 in 0..K-1; losses with a closed form also take soft labels (B, K).
    The ``Classifier`` and every other module with class logits accept these.

    Class attributes:
        soft_targets: also takes (B, K) label distributions, as mixup and distillation make them.
    """

    soft_targets: ClassVar[bool] = False


class RegressionLoss(Loss):
    """A loss on real-valued predictions and targets of equal shape, (B,) or (B, T).

    The ``Regressor`` and every other module with real-valued predictions accept these.
    """


def check_logits(loss: Loss, predictions: Tensor) -> None:
    """Raise ``ValueError`` unless ``predictions`` is (B, K) with K >= 2."""
    if predictions.ndim != 2 or predictions.shape[1] < 2:
        raise ValueError(
            f"{type(loss).__name__} takes logits of shape (B, K) with K >= 2, got "
            f"{tuple(predictions.shape)}."
        )


def two_class_logits(predictions: Tensor) -> Tensor:
    """Return scores s of class 1, (B,) or (B, 1), as logits (0, s); logits (B, K) as they are."""
    if predictions.ndim == 1:
        predictions = predictions[:, None]
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        return F.pad(predictions, (1, 0))
    return predictions


def check_labels(loss: ClassificationLoss, predictions: Tensor, targets: Tensor) -> None:
    """Raise ``ValueError`` unless ``targets`` are labels that ``loss`` takes for these logits."""
    if targets.ndim == 1 and targets.dtype == torch.int64:
        return
    name, given = type(loss).__name__, f"got {targets.dtype} of shape {tuple(targets.shape)}."
    if not loss.soft_targets:
        raise ValueError(f"{name} is defined for hard labels only, (B,) int64: {given}")
    if targets.shape != predictions.shape or not targets.is_floating_point():
        raise ValueError(f"{name} takes labels (B,) int64 or (B, K) float: {given}")
