"""Label smoothing by a tuned share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from framework.objectives.objectives import Objectives
from framework.self_tuning.effect import Effect
from framework.self_tuning.effects.soft_labels import (
    add_correction,
    counted,
    cross_entropy,
    labels_of,
)
from framework.self_tuning.hyperparameter import HyperParameter

AMOUNT = HyperParameter(init=0.05, low=0.0, high=1.0)
"""Range of the share of a label that is spread."""


class LabelSmoothing(Effect):
    r"""Spreads a share of each label evenly over the classes, a share for each row.

    Adds the term ``label_smoothing``, :math:`\epsilon\,(\frac{1}{K} \sum_k -\log p_k - \ell)` with
    the cross-entropy :math:`\ell` of a row. Beside a plain cross-entropy of weight 1 the sum is
    that of smoothed labels, exactly; beside another loss it is a penalty of the same form. Beside
    ``TunedMixup`` the row's own label is smoothed, not the mixed one.

    Shapes: predictions (B, K), logits; targets (B,) int64, where -100 does not count, or (B, K).

    Paper: Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*,
    arXiv:1512.00567; tuned as by MacKay et al., *Self-Tuning Networks*, ICLR 2019,
    arXiv:1903.03088, where it is not among the examples.

    Args:
        name: Prefix of the hyperparameter's name, ``NAME.amount``, and name of the term.
        amount: Share of the label that is spread, within (0, 1).

    Raises:
        ValueError: The range goes beyond; in a step, predictions or targets of other shapes.

    Example:
        >>> import torch
        >>> from framework.objectives import Objectives
        >>> from framework.self_tuning import Draws, LabelSmoothing
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> objectives = Objectives(predictions=logits, targets=torch.tensor([0, 1]))
        >>> smoothing = LabelSmoothing()
        >>> with smoothing.at({"amount": torch.tensor([0.1, 0.2])}, Draws(seed=0, step=0)):
        ...     smoothing.change_objectives(objectives, {}, torch.nn.Identity())
        >>> objectives.per_sample["label_smoothing"]
        tensor([ 0.1000, -0.2000])
    """

    needs: ClassVar[tuple[str, ...]] = ("predictions", "targets")

    def __init__(self, name: str = "label_smoothing", amount: HyperParameter = AMOUNT) -> None:
        limited = amount.within(f"{name}.amount", AMOUNT, low=0, high=1)
        super().__init__(name, {"amount": limited})

    def change_objectives(
        self, objectives: Objectives, batch: Mapping[str, Any], model: nn.Module
    ) -> None:
        """Add the term."""
        if self.active is None:
            return
        log_p, labels = labels_of(objectives, self.name)
        losses = cross_entropy(log_p, labels)
        amount = self.value_for("amount", losses, "the predictions")
        correction = amount * (-log_p.mean(1) - losses)
        add_correction(objectives, self.name, correction, labels, counted(labels))
