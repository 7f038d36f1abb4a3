"""Label distributionally robust losses, with one temperature or one per training sample."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.distributed.sample_state import SampleState
from framework.losses.loss import ClassificationLoss, check_labels, check_logits
from framework.utilities.checks import check_at_least, check_interval, check_one_of, check_positive

NORMALIZATIONS = ("softplus_mean", "l1", None)


class LDRLoss(ClassificationLoss):
    r"""Worst case of the margin violations over label distributions that stay near uniform.

    With :math:`\delta_k = f_k - f_y + c\,1[k \ne y]` the loss is

    .. math:: \psi_\lambda(f, y) = \max_q \sum_k q_k \delta_k - \lambda\,\mathrm{KL}(q \| 1/K)
              = \lambda \log \tfrac1K \sum_k e^{\delta_k / \lambda}

    At ``lam=1, margin=0`` and without normalization it is cross-entropy minus log K, for small
    ``lam`` the Crammer-Singer hinge max_k delta_k, for large ``lam`` the mean of delta_k, which
    label noise cannot mislead. Values may be negative.

    Shapes: predictions (B, K) logits, K >= 2; targets (B,) int64, no soft labels, for which the
    loss is not defined; returns a scalar, or (B,).

    Paper: Zhu, Ying, Yang, *Label Distributionally Robust Losses for Multi-class Classification*,
    ICML 2023, arXiv:2112.14869. The normalization is that of the official code
    (Optimization-AI/ICML2023_LDR).

    Cost: a few more passes over the logits, no extra forward pass.

    Use it for: labels of which many are wrong (lam 10), also with hundreds of classes.

    Args:
        lam: Temperature, above 0. With normalized logits, which span 0..K, 10 resists 40 % wrong
            labels and 1 does not.
        margin: Margin c, at least 0.
        normalize: Normalization of a row of logits. ``'softplus_mean'``: softplus, then divided by
            their mean; ``'l1'``: divided by the mean of their absolute values; ``None``: nothing.
            The scale of normalized logits is free: predict with argmax, their softmax is not
            calibrated. With ``'l1'`` do not start from a head whose weights are all zero, where the
            gradient is unbounded.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, or predictions or targets of another shape.

    Example:
        >>> import torch
        >>> from framework.losses import LDRLoss
        >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]])
        >>> LDRLoss(lam=10.0, normalize=None, reduction="none")(logits, torch.tensor([0, 2]))
        tensor([-1.3635,  0.3364])
    """

    def __init__(
        self,
        lam: float = 1.0,
        margin: float = 0.1,
        normalize: str | None = "softplus_mean",
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        _check_arguments("lam", lam, margin, normalize)
        self.lam = lam
        self.margin = margin
        self.normalize = normalize

    def per_sample(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the loss of every row, shape (B,)."""
        check_logits(self, predictions)
        check_labels(self, predictions, targets)
        scores = tempered_scores(predictions, targets, self.lam, self.margin, self.normalize)
        return worst_case(scores, targets, self.lam)


class ALDRLoss(ClassificationLoss):
    r"""LDR whose temperature each training sample learns: low where the model is sure.

    The temperature of sample i joins the maximization, held near ``lam0`` by a quadratic,

    .. math:: \max_{q, \lambda} \sum_k q_k \delta_k - \lambda\,\mathrm{KL}(q \| 1/K)
              - \tfrac{\alpha \log K}{2 \lambda_0} (\lambda - \lambda_0)^2,

    and every training step does one round of alternating maximization: q from the stored
    temperature, then :math:`\lambda_i = \lambda_0 (1 - \mathrm{KL}(q \| 1/K) / (\alpha \log K))`,
    which lies in [lam0 (1 - 1 / alpha), lam0]. It is stored, and constant for the gradient; the
    quadratic is part of the value only. As alpha grows the loss becomes ``LDRLoss(lam=lam0)``.

    ``temperature`` is a ``SampleState``, the same on every rank: in
    training mode all ranks must call the loss equally often, with an empty batch if need be. In
    evaluation mode, where ``index`` may belong to another data set, it is neither read nor
    written: the round starts from ``lam0``.

    Shapes: predictions (B, K) logits, K >= 2; targets (B,) int64, no soft labels, for which the
    loss is not defined; index (B,) int64; returns a scalar, or (B,).

    Paper: arXiv:2112.14869, as ``LDRLoss``. The official code leaves the margin out of q, though
    the maximizer contains it; the default follows the code, see ``margin_in_q``. It also adds 1e-5
    to q before the logarithm; here the KL divergence is exact.

    Cost: a second softmax over the logits, 4 bytes per training sample, one small gather per step.

    Use it for: wrong labels whose share differs from sample to sample; start with lam0 10.

    Args:
        lam0: Largest and initial temperature, above 0; 10 under heavy label noise, as for LDR.
        alpha: Weight of the quadratic that holds the temperature near ``lam0``, above 1; the
            larger, the less the temperature moves.
        margin: Margin c, at least 0.
        normalize: Normalization of the logits, as in ``LDRLoss``; the official code takes ``'l1'``,
            and ``'softplus_mean'`` on CIFAR-100.
        margin_in_q: Whether q, from which the temperature follows, sees the margin, as in the
            paper's maximization. The margin then takes from the label, which makes q more even
            where the model agrees with the label and less where it does not: from the same
            predictions a wrong label gets the *lower* temperature. Without it the temperature
            follows from the predictions alone.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``.

    Raises:
        ValueError: an argument out of its range, or an input of another shape.
        RuntimeError: called in training mode before ``setup``.

    Example:
        >>> import torch
        >>> from framework.losses import ALDRLoss
        >>> loss = ALDRLoss(reduction="none")
        >>> loss.setup(num_samples=100, num_classes=3, device=torch.device("cpu"))
        >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]])
        >>> index = torch.tensor([7, 42])
        >>> values = loss(logits, torch.tensor([0, 2]), index=index)
        >>> loss.temperature.read(index)
        tensor([0.8232, 0.8490])
    """

    needs: ClassVar[tuple[str, ...]] = ("index",)

    def __init__(
        self,
        lam0: float = 1.0,
        alpha: float = 2.0,
        margin: float = 0.1,
        normalize: str | None = "l1",
        margin_in_q: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        _check_arguments("lam0", lam0, margin, normalize)
        check_interval("(1, inf)", alpha=alpha)  # at 1 a temperature reaches 0
        self.lam0 = lam0
        self.alpha = alpha
        self.margin = margin
        self.normalize = normalize
        self.margin_in_q = margin_in_q
        self.temperature: SampleState | None = None

    def setup(self, num_samples: int, num_classes: int | None, device: torch.device) -> None:
        """Allocate one temperature per training sample, all ``lam0``."""
        self.temperature = SampleState(num_samples, fill=self.lam0, device=device)

    def per_sample(
        self, predictions: Tensor, targets: Tensor, *, index: Tensor | None = None, **needs: Any
    ) -> Tensor:
        """Return the loss of every row, shape (B,); in training mode update the temperatures."""
        check_logits(self, predictions)
        check_labels(self, predictions, targets)
        margin_in_q = self.margin if self.margin_in_q else 0.0
        with torch.no_grad():
            if self.training:
                old = self._stored(index, len(predictions)).to(predictions.dtype)
            else:
                old = predictions.new_full((len(predictions),), self.lam0)
            scores = tempered_scores(predictions, targets, old, margin_in_q, self.normalize)
            new = adapt_temperature(scores, self.lam0, self.alpha)
            if self.training:
                assert self.temperature is not None
                assert index is not None
                self.temperature.write(index, new)
            pull = self.alpha * math.log(predictions.shape[1]) / (2 * self.lam0)
            penalty = pull * (new - self.lam0) ** 2
        scores = tempered_scores(predictions, targets, new, self.margin, self.normalize)
        return worst_case(scores, targets, new) - penalty

    def _stored(self, index: Tensor | None, rows: int) -> Tensor:
        """Return the stored temperatures of the rows, (B,)."""
        if self.temperature is None:
            raise RuntimeError(
                "ALDRLoss keeps a temperature per training sample: call setup(num_samples, "
                "num_classes, device) before training."
            )
        if index is None or index.shape != (rows,):
            given = "None" if index is None else f"shape {tuple(index.shape)}"
            raise ValueError(
                f"ALDRLoss needs the index of each of the {rows} samples, got {given}."
            )
        return self.temperature.read(index)


def tempered_scores(
    logits: Tensor,
    targets: Tensor,
    temperature: Tensor | float,
    margin: float = 0.0,
    normalize: str | None = None,
) -> Tensor:
    """Return (f_k - margin 1[k = y]) / temperature, f the normalized logits; shape (B, K).

    Their softmax is the worst-case label distribution q.

    Args:
        logits: (B, K).
        targets: (B,) int64.
        temperature: Temperature of all rows, or one for each, (B,).
        margin: Margin c.
        normalize: Normalization of the logits, see ``LDRLoss``.
    """
    size: Tensor | float = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    if normalize == "softplus_mean":
        logits = F.softplus(logits)
        size = size * (logits.mean(1, keepdim=True) + 1e-8)
    elif normalize == "l1":
        size = size * (logits.abs().mean(1, keepdim=True) + 1e-8)
    # the reciprocal of a column: the backward pass of a division costs several more
    scores = logits * (1 / size)
    if margin:
        shift = scores.new_full((len(scores),), -margin) / temperature
        scores.scatter_add_(1, targets[:, None], shift[:, None])
    return scores


def worst_case(scores: Tensor, targets: Tensor, temperature: Tensor | float) -> Tensor:
    r"""Return :math:`\lambda \log \tfrac1K \sum_k e^{s_k - s_y}` of tempered scores s, shape (B,).

    With :math:`\delta_k = \lambda (s_k - s_y)` it lies between the mean of the delta_k (high
    temperature) and their maximum (low). Scores are (B, K), the temperature a number or (B,).
    """
    entropy = F.cross_entropy(scores, targets, reduction="none")
    return temperature * (entropy - math.log(scores.shape[1]))


def adapt_temperature(scores: Tensor, lam0: float, alpha: float) -> Tensor:
    """Return lam0 (1 - KL(q || 1/K) / (alpha log K)) with q = softmax(scores), shape (B,)."""
    log_K = math.log(scores.shape[1])
    log_q = F.log_softmax(scores, dim=1)
    kl = torch.linalg.vecdot(log_q.exp(), log_q) + log_K
    # rounding must not carry a temperature out of [lam0 (1 - 1/alpha), lam0]
    return lam0 * (1 - kl.clamp(0, log_K) / (alpha * log_K))


def _check_arguments(name: str, temperature: float, margin: float, normalize: str | None) -> None:
    check_positive(**{name: temperature})
    check_at_least(0, margin=margin)
    check_one_of(NORMALIZATIONS, normalize=normalize)
