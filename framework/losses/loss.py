"""The base class of every loss: what a loss needs, how it reduces, in which precision."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _Loss

from framework.objectives.labels import IGNORE_INDEX
from framework.utilities.checks import check_one_of
from framework.utilities.precision import at_least_float32

NEEDS = (
    *("index", "group", "features", "inputs", "weight"),
    *("epoch", "step", "micro_batch", "forward"),
)
"""What a loss may ask for beside predictions and targets; each is passed as a keyword."""

MAY_BE_MISSING = ("micro_batch",)
"""What a caller need not pass, as one who accumulates no gradients has none."""

LOOK_EVERY = 101
"""Calls from one look at values to the next: odd, as a loss may be called twice in a step."""

FREE_TO_LOOK = ("cpu",)
"""Devices whose values are looked at in every call; a GPU has to be waited for."""


class Loss(_Loss):
    """A loss called as ``loss(predictions, targets, **needs)``.

    A subclass writes ``per_sample`` (one value per row), or overrides ``compute`` where
    the loss is no sum over samples. Inputs in half precision are computed in float32.

    Class attributes:
        needs: names out of ``index, group, features, inputs, weight, epoch, step, micro_batch,
            forward`` that the loss receives as keywords. ``index`` is (B,) int64 in the full
            training set, ``group`` (B,) int64 the group a row belongs to, such as a bag,
            ``features`` (B, D), ``inputs`` the network's input, ``weight`` (B,), ``epoch`` and
            ``step`` ints, ``micro_batch`` the number of the batch among those whose gradients make
            one step, 0 where each is a step, ``forward`` a callable from inputs to predictions.
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
        self._calls = 0

    def setup(self, num_samples: int, num_classes: int | None, device: torch.device) -> None:
        """Allocate per-sample state; called before a checkpoint is restored."""

    def may_look(self, values: Tensor) -> bool:
        """Return whether this call may read numbers of ``values``: not in every step on a GPU.

        Compiled code reads none, as it could not act on them.
        """
        if torch.compiler.is_compiling():
            return False
        return values.device.type in FREE_TO_LOOK or self._calls % LOOK_EVERY == 1

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

    def missing(self, needs: Collection[str]) -> list[str]:
        """Return what the loss needs and was not given."""
        return [name for name in self.needs if name not in (*MAY_BE_MISSING, *needs)]

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
        if missing := self.missing(needs):
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)} as keyword.")
        if not torch.compiler.is_compiling():  # to which each number would be another graph
            self._calls += 1  # here and not in `may_look`, which one call may ask several times
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

    A row whose label is ``ignore_index`` is as good as absent: its loss and its gradient are 0, and
    a mean is taken over the other rows. ``per_sample`` is given the label 0 in its place, and
    ``kept``, (B,) bool, which only a loss that compares rows has to look at.

    Class attributes:
        soft_targets: also takes (B, K) label distributions, as mixup and distillation make them.
        ignore_index: label of the rows that do not count, as in ``torch.nn.CrossEntropyLoss``.
    """

    soft_targets: ClassVar[bool] = False
    ignore_index: ClassVar[int] = IGNORE_INDEX

    def kept(self, targets: Tensor) -> Tensor | None:
        """Return which rows count, (B,) bool; None where the targets are no labels."""
        if targets.ndim == 1 and targets.dtype == torch.int64:
            return targets != self.ignore_index
        return None

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the reduced loss of the rows that are not to be ignored."""
        kept = self.kept(targets)
        if kept is None:
            return super().compute(predictions, targets, **needs)
        labels = targets.where(kept, 0)
        # 0 times the slope of a prediction that is NaN would be NaN
        shape = (-1, *[1] * (predictions.ndim - 1))
        predictions = predictions.where(kept.view(shape), 0)
        values = self.per_sample(predictions, labels, kept=kept, **needs).where(kept, 0)
        if self.reduction == "none":
            return values
        # where no row counts, a zero that still reaches every parameter behind predictions
        total = values.sum() if len(values) else predictions.sum() * 0.0
        return total if self.reduction == "sum" else total / kept.sum().clamp(min=1)


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
    if loss.may_look(targets) and len(targets) and (least := float(targets.min())) < 0:
        raise ValueError(f"{name} takes soft labels of at least 0, got {least:.3g}.")


def log_odds_against(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\log\sum_{k \ne y} e^{f_k} - f_y = \log((1 - p_y) / p_y)` per row, (B,).

    The sigmoid of it is 1 - p_y and its softplus the cross-entropy, both with all their digits
    where p_y is nearly 1.

    Args:
        logits: (B, K).
        targets: (B,) int64, y.
    """
    label = targets[:, None]
    others = logits.scatter(1, label, -torch.inf).logsumexp(1)
    return others - logits.gather(1, label).squeeze(1)
