"""Information maximization: predictions that are certain of every row and differ between rows."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.collectives import all_reduce_sum_with_grad
from framework.losses.loss import Loss, check_logits


class TargetClassificationMimicking(Loss):
    r"""Negative mutual information of input and class: a loss on rows without labels.

    With the probabilities :math:`\rho_{ik}` of K classes on the N rows of the batch and their mean
    :math:`\bar\rho_k`,

    .. math:: L = \sum_k \bar\rho_k \log \bar\rho_k
                  - \frac1N \sum_{ik} \rho_{ik} \log \rho_{ik} \; [+ \log K]

    It is least, 0 with the shift and -log K without, where every row is certain of one class and
    all classes are equally frequent; it is 0, with the shift log K, where all rows say the same.
    The mean is that of the global batch. A batch of rows of one class is thus pushed apart: it
    takes batches of several times K rows.

    Shapes: predictions (N, K) logits, or log-probabilities such as those of
    ``bayes_refine``; targets are not looked at and may be left
    out; returns a scalar. No row gives 0 with a gradient path. Sample weights do not apply: every
    row of the batch counts, or those that ``kept``, (N,) bool, marks.

    Paper: Lv et al., *Pareto Domain Adaptation*, NeurIPS 2021, arXiv:2112.04137, the surrogate of
    the unavailable loss on target labels, without the shift. The paper, and its code, take the
    value as a loss that ends at 0, which only the shifted form is. The code adds 1e-6 or nothing
    within the logarithm; here none is needed. The same loss is the information maximization of
    SHOT, arXiv:2002.08546.

    Cost: that of cross-entropy; with several ranks one all-reduce of K + 2 floats.

    Use it for: unlabeled rows, of a target domain beside a loss on labeled source rows, or of a
    held-out set as a guide.

    Args:
        shifted: Whether to add log K, so that the value is in [0, log K]. The gradient is the same.

    Raises:
        ValueError: predictions are not (N, K) with K >= 2.

    Example:
        >>> import torch
        >>> from framework.losses import TargetClassificationMimicking
        >>> loss = TargetClassificationMimicking()
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 3.0]])
        >>> loss(logits)
        tensor(0.1409)
        >>> loss(logits[:1].expand(2, 2))
        tensor(0.6931)
    """

    batch_coupled: ClassVar[bool] = True

    def __init__(self, shifted: bool = True) -> None:
        super().__init__()
        self.shifted = shifted

    def forward(
        self,
        predictions: Tensor,
        targets: Tensor | None = None,
        kept: Tensor | None = None,
        **needs: Any,
    ) -> Tensor:
        """Return the loss of the predictions, a scalar, the same on every rank."""
        targets = predictions if targets is None else targets
        return super().forward(predictions, targets, kept=kept, **needs)

    def compute(
        self, predictions: Tensor, targets: Tensor, kept: Tensor | None = None, **needs: Any
    ) -> Tensor:
        """Return the loss; inputs are float32 or float64 and autocast is off."""
        check_logits(self, predictions)
        classes = predictions.shape[1]
        if kept is not None:
            # 0 times the slope of a prediction that is NaN would be NaN
            predictions = predictions.where(kept[:, None], 0)
        log_p = F.log_softmax(predictions, dim=1)
        p = log_p.exp()
        rows = p.new_full((1,), len(p))
        if kept is not None:
            # a GPU is waited for where such rows are taken out
            p, rows = p.where(kept[:, None], 0), kept.sum()[None].to(p.dtype)
        # 0 times the logarithm of 0 is 0, also where it is differentiated
        negative_entropy = (p * torch.where(p > 0, log_p, 0)).sum()
        sums = all_reduce_sum_with_grad(torch.cat([p.sum(0), negative_entropy[None], rows]))
        mean = sums[:-1] / sums[-1].clamp(min=1)
        marginal = mean[:classes]
        # the logarithm of a class that nobody is in would have an infinite slope
        log_marginal = marginal.clamp(min=torch.finfo(marginal.dtype).tiny).log()
        value = (marginal * log_marginal).sum() - mean[classes]
        shift = math.log(classes) if self.shifted else 0.0
        return value + shift * (sums[-1] > 0).to(value.dtype)
