"""Comp-sum losses: cross-entropy, generalized cross-entropy and MAE as one family."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.losses.loss import ClassificationLoss, check_labels, check_logits
from framework.utilities.checks import check_at_least, check_interval

MAX_EXPONENT = 80.0  # exp(80) = 5.5e34; float32 overflows at exp(88.7)


class CompSumLoss(ClassificationLoss):
    r"""The family :math:`\ell_\tau(f, y) = (p_y^{\tau-1} - 1) / (1 - \tau)`, p the softmax of f.

    One number moves from the sum-exponential loss (``tau=0``) over cross-entropy (1) and
    generalized cross-entropy with q = tau - 1 (between 1 and 2; its usual q = 0.7 is ``tau=1.7``)
    to the mean absolute error :math:`1 - p_y` (2). The gradient is that of cross-entropy times
    :math:`p_y^{\tau-1}`: above 1 the loss is at most 1 / (tau - 1) and trusts labels less that the
    model finds unlikely; below 1 it insists on them and diverges under label noise.

    Shapes: predictions (B, K) logits, K >= 2; targets (B,) int64, or (B, K) label distributions y,
    for which the loss is :math:`\sum_k y_k \ell_\tau(f, k)`; returns a scalar, or (B,).

    For ``tau < 1`` the value stops growing, and its gradient is zero, where
    :math:`p_y^{\tau-1} > e^{80}`, shortly before float32 overflows. With ``tau=2``, 100 classes or
    more and a fresh network the gradient is proportional to p_y, about 1 / K, and training stalls:
    start with ``tau=1``.

    Paper: Mao, Mohri, Zhong, *Cross-Entropy Loss Functions: Theoretical Analysis and
    Applications*, ICML 2023, arXiv:2304.07288. There is no official code.

    Cost: that of cross-entropy.

    Use it for: labels of which some are wrong (tau 1.7), or clean ones (tau 1).

    Args:
        tau: Member of the family, at least 0; 1 is cross-entropy, 1.7 a good start under label
            noise.
        label_smoothing: Share of the label that is spread evenly over the K classes, in [0, 1], as
            in ``torch.nn.CrossEntropyLoss``.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, or predictions or targets of another shape.

    Example:
        >>> import torch
        >>> from framework.losses import CompSumLoss
        >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]])
        >>> CompSumLoss(tau=1.7, reduction="none")(logits, torch.tensor([0, 2]))
        tensor([0.2220, 0.8871])
    """

    soft_targets: ClassVar[bool] = True

    def __init__(
        self, tau: float = 1.0, label_smoothing: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction)
        check_at_least(0, tau=tau)
        check_interval("[0, 1]", label_smoothing=label_smoothing)
        self.tau = tau
        self.label_smoothing = label_smoothing

    def per_sample(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the loss of every row, shape (B,)."""
        check_logits(self, predictions)
        check_labels(self, predictions, targets)
        log_p = F.log_softmax(predictions, dim=1)
        if targets.ndim == 1:
            losses = self._loss_of_class(log_p.gather(1, targets[:, None])).squeeze(1)
        else:
            losses = (targets.to(log_p.dtype) * self._loss_of_class(log_p)).sum(1)
        if self.label_smoothing > 0:
            smooth = self._loss_of_class(log_p).mean(1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * smooth
        return losses

    def _loss_of_class(self, log_p: Tensor) -> Tensor:
        """Return the loss of every class whose log-probability is given."""
        power = self.tau - 1
        if abs(power) < 1e-6:
            return -log_p
        exponent = power * log_p
        if power < 0:
            exponent = exponent.clamp(max=MAX_EXPONENT)
        return -torch.expm1(exponent) / power


def h_consistency_transform(beta: Tensor | float, tau: float, num_classes: int) -> Tensor:
    r"""Return :math:`\mathcal T_\tau(\beta)`: the least excess comp-sum loss at excess error beta.

    For symmetric complete hypothesis sets the H-consistency bound reads

    .. math:: R_{01}(h) - R_{01}^* + M_{01} \le \mathcal T_\tau^{-1}(R_\tau(h) - R_\tau^* + M_\tau)

    with R the risks of the error and of ``CompSumLoss``, stars their infima and M the
    minimizability gaps. The transform is increasing and convex in beta with value 0 at 0. For
    ``tau > 1`` it shrinks as :math:`K^{1-\tau}`, so that the guarantee fades with many classes.

    Paper: arXiv:2304.07288, Theorem 3.1.

    Args:
        beta: Excess error in [0, 1], any shape.
        tau: Exponent of the loss, at least 0.
        num_classes: Number of classes K, at least 2; without effect for ``tau <= 1``.

    Returns:
        float64, of the shape of ``beta``.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from framework.losses import h_consistency_transform
        >>> h_consistency_transform(0.5, tau=2.0, num_classes=3)
        tensor(0.1667, dtype=torch.float64)
    """
    beta = torch.as_tensor(beta, dtype=torch.float64)
    if not ((beta >= 0) & (beta <= 1)).all():
        raise ValueError("beta must lie in [0, 1].")
    check_at_least(0, tau=tau)
    check_at_least(2, num_classes=num_classes)
    if abs(tau - 1) < 1e-6:
        return (torch.special.xlog1py(1 + beta, beta) + torch.special.xlog1py(1 - beta, -beta)) / 2
    scale = (tau - 1) * num_classes ** (tau - 1)
    if tau >= 2:
        return beta / scale
    # the power mean of 1 + beta and 1 - beta, by their ratio because s is unbounded as tau nears 2
    s = 1 / (2 - tau)
    ratio = (1 - beta) / (1 + beta)
    mean = (1 + beta) * ((1 + ratio**s) / 2) ** (1 / s)
    if tau < 1:
        return 2 ** (1 - tau) / (1 - tau) * (1 - mean)
    return (mean - 1) / scale
