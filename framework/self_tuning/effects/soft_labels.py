"""Cross-entropy of every row, of which effects on labels are corrections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.objectives.labels import IGNORE_INDEX
from framework.objectives.objectives import Objectives
from framework.utilities.precision import at_least_float32


def labels_of(objectives: Objectives, name: str) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities (B, K) and the labels of a step.

    Args:
        objectives: Objectives with ``predictions`` (B, K), logits, and ``targets``: classes (B,)
            int64 or distributions (B, K).
        name: Name of the effect, for the message.

    Raises:
        ValueError: They have other shapes.
    """
    logits, labels = objectives.predictions, objectives.targets
    if logits is None or labels is None or logits.ndim != 2:
        found = "none" if logits is None else str(tuple(logits.shape))
        raise ValueError(
            f"{name} changes labels of logits (B, K), but the predictions are {found}."
        )
    if labels.shape != (logits.shape if labels.is_floating_point() else logits.shape[:1]):
        raise ValueError(
            f"{name} takes targets that are classes (B,) or distributions (B, K), but they are "
            f"{labels.dtype} of the shape {tuple(labels.shape)}."
        )
    return F.log_softmax(at_least_float32(logits), dim=1), labels


def cross_entropy(log_p: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every row, 0 where the label does not count.

    Args:
        log_p: (B, K) float.
        labels: Classes (B,) int64 or distributions (B, K).
    """
    if labels.is_floating_point():
        return -(labels.to(log_p.dtype) * log_p).sum(1)
    return F.nll_loss(log_p, labels, reduction="none", ignore_index=IGNORE_INDEX)


def counted(labels: Tensor) -> Tensor:
    """Return which rows have a label that counts, (B,) bool."""
    if labels.is_floating_point():
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    return labels != IGNORE_INDEX


def add_correction(
    objectives: Objectives, name: str, correction: Tensor, labels: Tensor, counts: Tensor
) -> None:
    """Add a term that corrects the cross-entropy, with the cross-entropy's normalizer.

    Args:
        objectives: Objectives of the step.
        name: Name of the term.
        correction: (B,).
        labels: Labels of the rows.
        counts: Rows that are corrected, (B,) bool.
    """
    objectives.per_sample[name] = torch.where(counts, correction, 0)
    objectives.count[name] = counted(labels).to(correction.dtype)
