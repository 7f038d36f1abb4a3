"""Learning from the mean response of bags of samples."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.losses.loss import ClassificationLoss, RegressionLoss, check_labels, check_logits
from framework.utilities.checks import check_interval, check_one_of
from framework.utilities.counts import count_values

BASES = ("mse", "bce", "ce")
MOST_OFF = 0.02  # how far proportions in bfloat16 sum beside 1, and more


class AggregateResponseLoss(RegressionLoss, ClassificationLoss):
    r"""Fits predictions where only the mean response of each bag of samples is known.

    Row i of bag a, with the bag's mean response :math:`\bar y_a` and mean prediction
    :math:`\bar f_a`, has the loss

    .. math:: (1 - \rho)\,\ell(\bar y_a, \bar f_a) + \rho\,\ell(\bar y_a, f_i),

    whose mean over the rows goes from the bag-level loss (``rho=0``), unbiased and of high
    variance, to the instance-level loss (1), which shrinks towards a constant; a small weight in
    between beats both. For the squared error it is the bag-level loss plus ``rho`` times the
    variance of the predictions inside the bags. What is averaged are predictions, not logits. Bags
    may differ in size, each counts by its rows; a bag of one row gives the plain loss.

    Every row carries its bag's mean, and a batch holds whole bags, as
    ``BagSampler`` and the datamodule ``Bags`` see to; a bag that is split
    over batches or ranks counts as two. Neither is checked.

    Shapes: group (B,) int64, any number per bag; returns a scalar, or (B,). With ``'mse'``
    predictions and targets (B,) or (B, T), with ``'bce'`` logits and targets in [0, 1] of such a
    shape, both averaged over T; with ``'ce'`` predictions (B, K) logits, K >= 2, and targets (B, K)
    class proportions, or (B,) int64 for single rows, as in evaluation.

    Cost: as the base loss, O(B K) and no state.
    Use it for: responses released only as means or label proportions of bags, for privacy.

    Paper: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu, *Learning from Aggregate Responses: Instance
    Level versus Bag Level Loss Functions*, ICLR 2024, arXiv:2401.11081. There is no official code;
    the weight |a| / n of unequal bags is ours, with which the identity above stays exact.

    Args:
        base: Loss l: ``'mse'``, ``'bce'`` (binary cross-entropy) or ``'ce'`` (cross-entropy).
        rho: Weight of the instance-level loss, in [0, 1]. Choose it by the bag-level loss on
            held-out bags; 0.03 is a good start.
        clamp: Whether targets of ``'bce'`` outside [0, 1] are brought to its ends and not refused,
            as the noise of a private release needs; what is done after a release costs no privacy.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, an input of another shape, or targets that are no
            probabilities, for which ``'bce'`` and ``'ce'`` have no minimum.

    Example:
        >>> import torch
        >>> from framework.losses import AggregateResponseLoss
        >>> prediction, group = torch.tensor([1.5, 2.0, 4.0, 5.0]), torch.tensor([0, 0, 1, 1])
        >>> mean_response = torch.tensor([2.0, 2.0, 4.0, 4.0])
        >>> AggregateResponseLoss(rho=0.3)(prediction, mean_response, group=group)
        tensor(0.2031)
    """

    needs: ClassVar[tuple[str, ...]] = ("group",)
    soft_targets: ClassVar[bool] = True

    def __init__(
        self, base: str = "mse", rho: float = 0.1, clamp: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        check_one_of(BASES, base=base)
        check_interval("[0, 1]", rho=rho)
        self.base = base
        self.rho = rho
        self.clamp = clamp

    def kept(self, targets: Tensor) -> Tensor | None:
        """Return which rows count, (B,) bool; None where the targets are no labels."""
        return super().kept(targets) if self.base == "ce" else None

    def per_sample(
        self,
        predictions: Tensor,
        targets: Tensor,
        *,
        group: Tensor | None = None,
        kept: Tensor | None = None,
        **needs: Any,
    ) -> Tensor:
        """Return the loss of every row, shape (B,)."""
        if self.base == "bce" and self.clamp:
            targets = targets.clamp(0, 1)
        self._check(predictions, targets, group)
        if kept is not None and group is not None:  # a bag of their own for what does not count
            group = group.where(kept, torch.iinfo(group.dtype).min)
        assert group is not None
        bags = BatchBags(group)
        if self.base == "mse":
            mean = bags.means(predictions)
            bag, instance = (targets - mean).square(), (targets - predictions).square()
        else:
            log_p, shares = self._log_probabilities(predictions, targets)
            log_mean = bags.log_means(log_p)
            bag, instance = -(shares * log_mean).sum(-1), -(shares * log_p).sum(-1)
        # lerp(l, l, rho) is l to the last bit: a bag of one row gives the plain loss
        losses = torch.lerp(bag, instance, self.rho)
        return losses if losses.ndim == 1 else losses.mean(1)

    def _log_probabilities(self, predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and mean responses of the classes, which are the last axis."""
        if self.base == "bce":
            log_p = torch.stack([F.logsigmoid(predictions), F.logsigmoid(-predictions)], dim=-1)
            return log_p, torch.stack([targets, 1 - targets], dim=-1)
        if targets.ndim == 1:
            targets = F.one_hot(targets, predictions.shape[1])
        return F.log_softmax(predictions, dim=1), targets.to(predictions.dtype)

    def _check(self, predictions: Tensor, targets: Tensor, group: Tensor | None) -> None:
        if group is None or group.shape != predictions.shape[:1]:
            given = "None" if group is None else f"shape {tuple(group.shape)}"
            raise ValueError(
                f"AggregateResponseLoss needs the group of each of the {len(predictions)} rows, "
                f"got {given}."
            )
        if self.base == "ce":
            check_logits(self, predictions)
            check_labels(self, predictions, targets)
        elif predictions.shape != targets.shape or predictions.ndim not in (1, 2):
            raise ValueError(
                f"AggregateResponseLoss with base={self.base!r} takes predictions and targets of "
                f"equal shape, (B,) or (B, T), got {tuple(predictions.shape)} and "
                f"{tuple(targets.shape)}."
            )
        if self.base == "mse" or not targets.is_floating_point() or not self.may_look(targets):
            return
        if self.base == "bce" and not ((targets >= 0) & (targets <= 1)).all():
            low, high = (float(value) for value in targets.aminmax())
            raise ValueError(
                "AggregateResponseLoss with base='bce' takes targets in [0, 1], got "
                f"{low:.3g} to {high:.3g}: scale them, or set clamp for a private release."
            )
        if self.base == "ce" and len(targets):
            sums = targets.sum(1)
            worst = float(sums[(sums - 1).abs().argmax()])
            if not abs(worst - 1) < MOST_OFF:
                raise ValueError(
                    "AggregateResponseLoss with base='ce' takes class proportions that sum to 1, "
                    f"got a row that sums to {worst:.3g}."
                )


class BatchBags:
    """The bags of a batch, to average over; there is room for as many as there are rows.

    How many there are is not asked, for which a GPU would be waited. Sums are taken in the order
    of the rows, on a GPU too.

    Args:
        group: Bag of each row, (B,) int64.
    """

    def __init__(self, group: Tensor) -> None:
        ordered, self.order = group.sort(stable=True)
        is_first = torch.ones_like(ordered, dtype=torch.bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        self.of_row = torch.empty_like(group)
        self.of_row[self.order] = is_first.cumsum(0) - 1
        sizes = count_values(self.of_row, len(group))
        self.bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.size_of_row = sizes[self.of_row]

    def means(self, values: Tensor) -> Tensor:
        """Return for each row the mean over its bag, as ``values`` (B, ...), differentiably."""
        flat = values.reshape(len(values), -1 if values.numel() else 1)
        total = _SumOfBag.apply(flat, self)
        return (total / self.size_of_row[:, None].to(total.dtype)).view_as(values)

    def log_means(self, log_values: Tensor) -> Tensor:
        """Return the logarithms of ``means`` of ``exp(log_values)``, without leaving logs."""
        detached = log_values.detach()
        where = self.of_row.view(-1, *[1] * (log_values.ndim - 1)).expand_as(log_values)
        largest = torch.full_like(detached, -torch.inf).scatter_reduce(0, where, detached, "amax")
        largest = largest[self.of_row]
        # the bag's largest value becomes exp(0) = 1, so that the mean is at least 1 / |a|
        return self.means((log_values - largest).exp()).log() + largest


class _SumOfBag(torch.autograd.Function):
    """For each row the sum over its bag, which is its own gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bags: BatchBags) -> Tensor:
        ctx.bags = bags
        # not index_add, which a GPU does in no fixed order
        sums = F.embedding_bag(
            bags.order, values, bags.bounds, mode="sum", include_last_offset=True
        )
        return sums[bags.of_row]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOfBag.apply(grad.contiguous(), ctx.bags), None
