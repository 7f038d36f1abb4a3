"""Losses of pairs of embeddings of one batch: contrastive, lifted, binomial, MS and NCA."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from framework.embedding.generic_pair_loss import GenericPairLoss, as_mean, weighted_log_sum_exp
from framework.utilities.checks import check_one_of, check_positive

CLOSEST = 1e-12
"""Least squared distance whose root is taken, as the root of 0 has no gradient."""


class ContrastiveLoss(GenericPairLoss):
    """Draws positives together and pushes negatives apart until they keep a margin.

    By distance d of embeddings of length 1, a positive costs d and a negative ``max(margin - d,
    0)``, and each kind is averaged over its pairs of all ranks that cost anything. By similarity s
    they cost -s and ``max(s - margin, 0)``, summed for each anchor.

    Paper: Dimensionality Reduction by Learning an Invariant Mapping (Hadsell et al., 2006), in the
    forms of arXiv:2106.04990

    Args:
        margin: Distance that negatives keep, or similarity that they may have.
        form: What a pair is compared by: ``'distance'`` or ``'similarity'``.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Raises:
        ValueError: ``form`` is neither.

    Example:
        >>> import torch
        >>> from framework.embedding import ContrastiveLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> ContrastiveLoss()(x, torch.tensor([0, 0, 1]))
        tensor(0.6325)
    """

    def __init__(
        self,
        margin: float = 0.5,
        form: Literal["distance", "similarity"] = "distance",
        reduction: str = "mean",
    ) -> None:
        check_one_of(("distance", "similarity"), form=form)
        super().__init__(reduction)
        self.margin = margin
        self.form = form

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of minus the similarities."""
        return -(weight * similarities).sum(1)

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of what exceeds the margin."""
        return (weight * (similarities - self.margin).relu()).sum(1)

    def of_anchors(self, similarities: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss of every anchor, (A,)."""
        if self.form == "similarity":
            return super().of_anchors(similarities, positive, negative)
        distances = (2 - 2 * similarities).clamp(min=CLOSEST).sqrt()
        near, far = positive * distances, negative * (self.margin - distances).relu()
        return as_mean(near, near > 0) + as_mean(far, far > 0)


class LiftedStructureLoss(GenericPairLoss):
    """Bounds an anchor's worst positive against its worst negative, both smoothly.

    ``max(log sum_p e^{-s_p} + log sum_n e^{s_n - margin}, 0)``, for anchors that have both.

    Paper: Deep Metric Learning via Lifted Structured Feature Embedding. arXiv:1511.06452, in the
    form of arXiv:2106.04990

    Args:
        margin: Amount by which positives shall be more similar than negatives, in [0, 2].
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Example:
        >>> import torch
        >>> from framework.embedding import LiftedStructureLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> LiftedStructureLoss(margin=1.0)(x, torch.tensor([0, 0, 1]))
        tensor(0.)
    """

    needs_both: ClassVar[bool] = True

    def __init__(self, margin: float = 0.5, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = margin

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the log-sum-exp of minus the similarities."""
        return weighted_log_sum_exp(-similarities, weight)

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the log-sum-exp of the similarities less the margin."""
        return weighted_log_sum_exp(similarities - self.margin, weight)

    def outer(self, value: Tensor) -> Tensor:
        """Return the value where it is positive."""
        return value.relu()


class BinomialDevianceLoss(GenericPairLoss):
    """Logistic loss of every pair, steeper for negatives, summed for each anchor.

    ``sum_p log(1 + e^{-beta (s_p - margin)}) + sum_n log(1 + e^{gamma (s_n - margin)})``

    Paper: Deep Metric Learning for Person Re-Identification (Yi et al., 2014), in the form of
    arXiv:2106.04990

    Args:
        beta: Steepness for positives.
        gamma: Steepness for negatives.
        margin: Similarity that positives shall exceed and negatives shall not.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Raises:
        ValueError: ``beta`` or ``gamma`` is not positive.

    Example:
        >>> import torch
        >>> from framework.embedding import BinomialDevianceLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> BinomialDevianceLoss()(x, torch.tensor([0, 0, 1]))
        tensor(3.6295)
    """

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 50.0,
        margin: float = 0.5,
        reduction: str = "mean",
    ) -> None:
        check_positive(beta=beta, gamma=gamma)
        super().__init__(reduction)
        self.beta = beta
        self.gamma = gamma
        self.margin = margin

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of the logistic losses."""
        return -(weight * F.logsigmoid(self.beta * (similarities - self.margin))).sum(1)

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of the logistic losses."""
        return -(weight * F.logsigmoid(-self.gamma * (similarities - self.margin))).sum(1)


class MultiSimilarityLoss(GenericPairLoss):
    """Weighs each of an anchor's pairs by how it compares with the anchor's others.

    ``1/beta log(1 + sum_p e^{-beta (s_p - margin)}) + 1/gamma log(1 + sum_n e^{gamma (s_n -
    margin)})``, without the mining of the paper.

    Paper: Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning.
    arXiv:1904.06627

    Args:
        beta: Steepness for positives.
        gamma: Steepness for negatives.
        margin: Similarity that positives shall exceed and negatives shall not.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Raises:
        ValueError: ``beta`` or ``gamma`` is not positive.

    Example:
        >>> import torch
        >>> from framework.embedding import MultiSimilarityLoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> MultiSimilarityLoss()(x, torch.tensor([0, 0, 1]))
        tensor(0.2126)
    """

    def __init__(
        self,
        beta: float = 2.0,
        gamma: float = 50.0,
        margin: float = 0.5,
        reduction: str = "mean",
    ) -> None:
        check_positive(beta=beta, gamma=gamma)
        super().__init__(reduction)
        self.beta = beta
        self.gamma = gamma
        self.margin = margin

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the smooth maximum of what positives lack."""
        exponents = -self.beta * (similarities - self.margin)
        return weighted_log_sum_exp(exponents, weight, plus_one=True) / self.beta

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the smooth maximum of what negatives exceed."""
        exponents = self.gamma * (similarities - self.margin)
        return weighted_log_sum_exp(exponents, weight, plus_one=True) / self.gamma


class NCALoss(GenericPairLoss):
    """Log of the odds that an anchor's neighbor, drawn by a softmax, is of another class.

    ``log sum_n e^{s_n / temperature} - log sum_p e^{s_p / temperature}``, for anchors that have
    both. The generic form has the negatives alone in the first sum; the probability of neighborhood
    component analysis has all, which makes it the softplus of this.

    Paper: Neighbourhood Components Analysis (Goldberger et al., 2004), in the form of
    arXiv:2106.04990

    Args:
        temperature: Temperature of the softmax.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Raises:
        ValueError: ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> from framework.embedding import NCALoss
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> NCALoss()(x, torch.tensor([0, 0, 1]))
        tensor(-5.)
    """

    needs_both: ClassVar[bool] = True
    needs_labels_that_differ: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.1, reduction: str = "mean") -> None:
        check_positive(temperature=temperature)
        super().__init__(reduction)
        self.temperature = temperature

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return minus the log-sum-exp of the similarities."""
        return -weighted_log_sum_exp(similarities / self.temperature, weight)

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the log-sum-exp of the similarities."""
        return weighted_log_sum_exp(similarities / self.temperature, weight)
