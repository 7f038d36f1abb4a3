"""Calls any torch or Trimtab loss so that its reduction can be done later, over all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import CrossEntropyLoss, NLLLoss, _Loss

from framework.distributed.collectives import world_size
from framework.losses.loss import ClassificationLoss, Loss
from framework.objectives.errors import IncompatibleError
from framework.objectives.labels import IGNORE_INDEX
from framework.objectives.objectives import Objectives
from framework.utilities.precision import at_least_float32


def add_term(
    objectives: Objectives,
    name: str,
    loss: _Loss,
    predictions: Tensor,
    targets: Tensor,
    **available: Any,
) -> None:
    """Add ``loss(predictions, targets)`` to ``objectives`` under ``name``.

    A sum over samples goes into ``per_sample`` with the normalizer of the loss's own reduction
    (the class weights of ``CrossEntropyLoss``, say), so that callbacks may still select samples;
    a batch-coupled loss goes into ``terms`` and counts equally on every rank.

    Args:
        objectives: Objectives of this step.
        name: Name of the term.
        loss: Loss of torch or Trimtab.
        predictions: Predictions (B, ...).
        targets: Targets (B, ...).
        **available: Values that the loss may need, see ``framework.losses.loss.NEEDS``.

    Raises:
        IncompatibleError: The loss needs something that is not available.
        TypeError: The loss returns no value per sample.
    """
    needs = getattr(loss, "needs", ())
    missing = [need for need in needs if available.get(need) is None]
    if missing:
        raise IncompatibleError(
            f"{type(loss).__name__} needs `{missing[0]}`, which is not available in this step."
        )
    keywords = {need: available[need] for need in needs}
    if isinstance(loss, Loss) and loss.batch_coupled:
        objectives.terms[name] = loss(predictions, targets, **keywords)
        objectives.count[name] = torch.ones((), device=predictions.device)
        return
    with _unreduced(loss):
        values = loss(predictions, targets, **keywords)
    if values.ndim == 0:
        raise TypeError(f"{type(loss).__name__} returns no value per sample.")
    values = at_least_float32(values)
    # only torch's losses can return more than one value a row
    weights = _element_weights(loss, targets)
    if values.ndim > 1:
        summed = weights is not None or loss.reduction in ("sum", "batchmean")
        values = values.flatten(1).sum(1) if summed else values.flatten(1).mean(1)
    objectives.per_sample[name] = values
    if weights is not None:
        objectives.count[name] = weights.flatten(1).sum(1) if weights.ndim > 1 else weights
    if loss.reduction == "sum":
        objectives.count[name] = torch.full((), 1 / world_size(), device=predictions.device)


def rows_of(loss: _Loss, provides: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``provides`` without ``per_sample`` if ``loss`` is one number for the whole batch."""
    coupled = isinstance(loss, Loss) and loss.batch_coupled
    return tuple(name for name in provides if not (coupled and name == "per_sample"))


def ignores_rows(loss: _Loss) -> bool:
    """Return whether a row of the label ``loss.ignore_index`` is as good as absent.

    Not for memory by index, which keeps that row too, nor where the loss runs the network on it.
    """
    if isinstance(loss, ClassificationLoss):
        return not loss.batch_coupled and not {"index", "forward"} & set(loss.needs)
    return isinstance(loss, CrossEntropyLoss)


@contextmanager
def explained_labels(
    logits: Tensor, label: Tensor, ignore_index: int | None = IGNORE_INDEX
) -> Iterator[None]:
    """Name a label that is no class, instead of the error that it causes inside the block.

    Labels are looked at after an error only: a comparison at every step would make a GPU wait.
    Those of its batches are looked at before, see ``EvaluationModule.check_numbers``.

    Args:
        logits: Logits (B, K); other shapes are passed over.
        label: Classes (B,) int64; other targets are passed over.
        ignore_index: Label of the rows that do not count; None where the loss counts all rows.

    Raises:
        ValueError: A label is not one of 0..K-1.
    """
    try:
        yield
    except (IndexError, RuntimeError):
        known = label.ndim == 1 and logits.ndim == 2 and not label.is_floating_point()
        if not known or label.device.type != "cpu":
            raise
        check_classes(label, logits.shape[1], ignore_index)
        raise


def check_classes(label: Tensor, num_classes: int, ignore_index: int | None = IGNORE_INDEX) -> None:
    """Raise ``ValueError`` if a label is not one of 0..K-1.

    Args:
        label: Classes (B,) int64 on the CPU; other targets are passed over.
        num_classes: Number K of classes.
        ignore_index: Label of the rows that do not count; None where the loss counts all rows.

    Example:
        >>> check_classes(torch.tensor([0, -100, 2]), num_classes=3)
    """
    if label.ndim != 1 or label.is_floating_point():
        return
    if ignore_index is not None:
        label = label[label != ignore_index]
    if not len(label):
        return
    low, high = (int(value) for value in label.aminmax())
    if ignore_index is None and low == IGNORE_INDEX:
        raise ValueError(
            f"The data holds rows that do not count, of the label {low}, and the loss counts every "
            "row: take another criterion, such as CrossEntropyLoss."
        )
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"The data holds the label {low if low < 0 else high}, but the model has the classes "
            f"0..{num_classes - 1}: set model.num_classes."
        ) from None


@contextmanager
def _unreduced(loss: _Loss) -> Iterator[None]:
    # past nn.Module's own assignment, which looks for parameters first
    attributes = loss.__dict__
    reduction, attributes["reduction"] = attributes["reduction"], "none"
    try:
        yield
    finally:
        attributes["reduction"] = reduction


def _element_weights(loss: _Loss, targets: Tensor) -> Tensor | None:
    """Return what torch's mean divides by, one value per element of the loss, if not 1."""
    if isinstance(loss, ClassificationLoss):
        return loss.kept(targets)
    if not isinstance(loss, (CrossEntropyLoss, NLLLoss)) or targets.is_floating_point():
        return None
    valid = targets != loss.ignore_index
    if loss.weight is None:
        return valid
    weight = loss.weight[targets.where(valid, 0)]
    return torch.where(valid, weight, 0).to(torch.promote_types(weight.dtype, torch.float32))
