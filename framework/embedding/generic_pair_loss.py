"""Losses of an anchor's similarities to others, in the one form that takes soft labels."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import (
    all_reduce_sum,
    gather,
    gather_with_grad,
    rank,
    rows_per_rank,
)
from framework.losses.loss import Loss


class Anchors(NamedTuple):
    """What a pair loss compares the rows of a batch with: A rows of this rank, or all proxies."""

    embeddings: Tensor
    """(A, d) of length 1."""
    labels: Tensor
    """(A,) int64."""
    rows: Tensor | None
    """(A,) int64 positions among the rows of all ranks; None for proxies, which are no rows."""


class GenericPairLoss(Loss):
    """Base of losses of pairs, called as ``loss(embeddings, labels)`` or on similarities.

    The loss of an anchor is ``outer(positive + negative)``: a function of the sum over its others
    of a function of the cosine, weighted by the label y that says how much of a positive an other
    is, and likewise for 1 - y. Hard labels give the losses that are known; soft ones those of
    mixed examples (see ``Metrix``). A subclass writes ``positive`` and ``negative``, each from
    similarities (A, V) and weights (A, V) to (A,), and ``outer`` if it is not the identity.

    Anchors are the rows of this rank, their others those of all ranks. Every anchor has one value,
    such that the mean over the anchors of all ranks is the loss; anchors without any pair are left
    out of it, and with ``needs_both`` those too that lack a positive or a negative.

    Paper: It Takes Two to Tango: Mixup for Deep Metric Learning. arXiv:2106.04990

    Class attributes:
        needs_both: an anchor counts only with at least one positive and one negative.
        needs_labels_that_differ: constant where all others of an anchor have one soft label.

    Args:
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.
    """

    needs_both: ClassVar[bool] = False
    needs_labels_that_differ: ClassVar[bool] = False

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the part of the positives, (A,); weights are at least 0, and 0 drops a pair."""
        raise NotImplementedError(f"{type(self).__name__} defines no part of positives.")

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the part of the negatives, (A,); see ``positive``."""
        raise NotImplementedError(f"{type(self).__name__} defines no part of negatives.")

    def outer(self, value: Tensor) -> Tensor:
        """Return the loss of an anchor from the sum of both parts."""
        return value

    def of_anchors(self, similarities: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss of every anchor, (A,), from weights of both kinds of pairs, (A, V)."""
        has_positive, has_negative = (positive > 0).any(1), (negative > 0).any(1)
        counted = has_positive & has_negative if self.needs_both else has_positive | has_negative
        values = self.positive(similarities, positive) + self.negative(similarities, negative)
        return as_mean(self.outer(values), counted)

    def of_similarities(
        self, similarities: Tensor, labels: Tensor | float, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of every anchor; a collective call where there are several ranks.

        Args:
            similarities: Cosines of A anchors and V others, (A, V), A of this rank.
            labels: How much of a positive each other is, in [0, 1]; (A, V) or what broadcasts.
            mask: Which pairs count, (A, V) bool; default all.

        Returns:
            (A,), whose mean over the anchors of all ranks is the loss.
        """
        labels = torch.as_tensor(labels, device=similarities.device).to(similarities)
        mask = torch.ones_like(similarities, dtype=torch.bool) if mask is None else mask
        zero = torch.zeros_like(similarities)
        return self.of_anchors(
            similarities, torch.where(mask, labels, zero), torch.where(mask, 1 - labels, zero)
        )

    def anchors(self, embeddings: Tensor, labels: Tensor, start: int = 0) -> Anchors:
        """Return the anchors of a batch.

        Args:
            embeddings: Rows of this rank (B_r, d), of any length.
            labels: Their classes (B_r,) int64.
            start: Position of the first one among the rows of all ranks.
        """
        rows = torch.arange(start, start + len(labels), device=labels.device)
        return Anchors(F.normalize(embeddings, dim=-1), labels, rows)

    def of_rows(self, values: Tensor, rows: int) -> Tensor:
        """Return a value for each of this rank's rows from those of its anchors."""
        return values

    def per_sample(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return a value for every row, whose mean over all ranks is the loss, (B_r,).

        Args:
            predictions: Embeddings (B_r, d), of any length.
            targets: Classes (B_r,) int64.
            **needs: None.
        """
        counts = rows_per_rank(len(predictions), predictions.device)
        others = F.normalize(gather_with_grad(predictions, counts), dim=-1)
        labels = gather(targets, counts)
        anchors = self.anchors(predictions, targets, sum(counts[: rank()]))
        same = anchors.labels[:, None] == labels
        mask = None
        if anchors.rows is not None:
            mask = anchors.rows[:, None] != torch.arange(len(labels), device=labels.device)
        values = self.of_similarities(anchors.embeddings @ others.T, same, mask)
        return self.of_rows(values, len(predictions))


def as_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Return a number for each anchor, such that their mean is that of the values that count.

    The means are over all ranks, so that this is a collective call.

    Args:
        values: (A,) or (A, V).
        counted: Which of them count, bool in the same shape.

    Returns:
        (A,); zeros where nothing counts.
    """
    number = torch.stack([counted.sum(), counted.new_full((), len(counted), dtype=torch.int64)])
    counting, anchors = all_reduce_sum(number)
    scale = torch.where(counting > 0, anchors / counting.clamp(min=1).double(), 0.0)
    kept = torch.where(counted, values, 0.0)
    return (kept if kept.ndim == 1 else kept.sum(1)) * scale.to(values.dtype)


def weighted_log_sum_exp(exponents: Tensor, weight: Tensor, plus_one: bool = False) -> Tensor:
    """Return ``log(sum of w * e^u)`` of every row, or ``log(1 + ...)``, without overflow.

    Args:
        exponents: Numbers u (A, V).
        weight: Weights w (A, V), at least 0, constant for the gradient.
        plus_one: Whether 1 is added to the sum.

    Returns:
        (A,); finite, and without meaning, where no weight of a row is positive and nothing is
        added.
    """
    some = weight > 0
    empty = ~some.any(1)
    # of minus infinities alone the gradient would be 0 / 0
    fill = torch.where(empty, 0.0, -torch.inf).to(exponents)[:, None]
    total = torch.where(some, exponents + weight.log(), fill).logsumexp(1)
    if not plus_one:
        return total
    return torch.where(empty, 0.0, torch.logaddexp(total, torch.zeros_like(total)))
