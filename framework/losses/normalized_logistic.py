"""The logistic loss, divided by how much of the batch is still misclassified."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum
from framework.losses.loss import (
    ClassificationLoss,
    check_labels,
    check_logits,
    log_odds_against,
    two_class_logits,
)
from framework.utilities.checks import check_at_least


class NormalizedLogisticLoss(ClassificationLoss):
    r"""Logistic loss whose gradient does not fade as fewer samples remain wrong.

    With :math:`s_i = 1 - p_{y_i}`, the weight that the logistic loss :math:`\ell_i` gives to
    sample i, the loss is

    .. math:: L = \beta\,\frac1n \sum_i \ell_i, \qquad
              \beta = \min\Bigl(\Bigl(\frac1n \sum_i s_i\Bigr)^{-1}, \beta_{\max}\Bigr)

    with beta over the global batch and constant for the gradient. A few wrong samples among many
    so move the model as far as many wrong ones do: with ``beta_max`` unbounded, on separable data
    and the full batch, gradient descent needs at most
    :math:`R^2/\mu^2 + 2 \log(2n - 1) / (\gamma \mu^2)` steps, with R the largest norm, mu the
    margin and gamma the step size, where the factor n of logistic regression is gone.

    The step keeps its length when all samples are right, until beta reaches ``beta_max``: with 1e6
    in place of 10 a perceptron on digits, SGD at rate 0.3, fell from 98 % to 82 and 96 % for two
    seeds. The training value is near 1 then and no measure of progress: monitor the errors. In
    evaluation mode beta is 1, so that validation reads cross-entropy. Sample weights are applied
    after beta and do not change it. All ranks must call the loss equally often.

    Shapes: predictions (B, K) logits, K >= 2, or scores (B,) or (B, 1) of class 1; targets (B,)
    int64, no soft labels; returns a scalar, or (B,).

    Paper: Tyurin, *From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
    with Large Step Sizes*, AAAI 2025, arXiv:2412.08424. There is no official code. The paper is
    binary; K > 2 is an extension. It prints the limit of beta for large steps upside down.

    Cost: that of cross-entropy; with several ranks one all-reduce of 2 floats.
    Use it for: separable, imbalanced problems with large steps; not under label noise.

    Args:
        beta_max: Largest beta, at least 1; the paper has none. For a linear model on the full batch
            1e6 or more, which only guards against overflow.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, or predictions or targets of another shape.

    Example:
        >>> import torch
        >>> from framework.losses import NormalizedLogisticLoss
        >>> scores = torch.tensor([2.0, 1.0, -0.5], requires_grad=True)
        >>> loss = NormalizedLogisticLoss()
        >>> loss(scores, torch.tensor([1, 1, 1])).backward()
        >>> scores.grad  # the shares of the rows in what is wrong; they sum to one
        tensor([-0.1180, -0.2661, -0.6159])
    """

    monitorable: ClassVar[bool] = False

    def __init__(self, beta_max: float = 10.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        check_at_least(1, beta_max=beta_max)
        self.beta_max = beta_max

    def per_sample(
        self, predictions: Tensor, targets: Tensor, *, kept: Tensor | None = None, **needs: Any
    ) -> Tensor:
        """Return the loss of every row, shape (B,)."""
        logits = two_class_logits(predictions)
        check_logits(self, logits)
        check_labels(self, logits, targets)
        against = log_odds_against(logits, targets)
        losses = -F.logsigmoid(-against)  # cross-entropy
        return self._beta(against, kept) * losses if self.training else losses

    def _beta(self, against: Tensor, kept: Tensor | None) -> Tensor:
        """Return beta of the global batch, without gradient, from this rank's log-odds (B,)."""
        wrong = against.detach().sigmoid()
        kept = torch.ones_like(wrong, dtype=torch.bool) if kept is None else kept
        sums = torch.stack([wrong.where(kept, 0).sum(), kept.sum(dtype=wrong.dtype)])
        wrong, rows = all_reduce_sum(sums)
        least = torch.finfo(wrong.dtype).tiny
        # no row at all has no beta, but must not divide 0 by 0
        return rows / torch.maximum(wrong, rows / self.beta_max).clamp_min(least)
