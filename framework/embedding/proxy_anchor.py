"""Proxy-Anchor: a pair loss whose anchors are learned, one for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.embedding.generic_pair_loss import Anchors, GenericPairLoss, weighted_log_sum_exp
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import at_least_float32


class ProxyAnchorLoss(GenericPairLoss):
    """Compares a learned proxy of every class with all rows of the batch.

    The mean of ``log(1 + sum_p e^{-scale (s_p - margin)})`` over the proxies that have a positive
    in the batch, and of ``log(1 + sum_n e^{scale (s_n + margin)})`` over all of them. The sums are
    over the rows of all ranks. A row's value is the loss of the whole batch.

    Paper: Proxy Anchor Loss for Deep Metric Learning. arXiv:2003.13911

    Args:
        embedding_dim: Width d of an embedding.
        num_classes: Number C of classes.
        scale: Factor of the similarities.
        margin: Amount by which positives shall exceed 0 and negatives stay below it.
        reduction: Reduction over rows: ``'mean'``, ``'sum'`` or ``'none'``, as in torch.

    Raises:
        ValueError: ``embedding_dim`` or ``num_classes`` below 1, or ``scale`` is not positive.

    Example:
        >>> import torch
        >>> from framework.embedding import ProxyAnchorLoss
        >>> loss = ProxyAnchorLoss(embedding_dim=2, num_classes=3)
        >>> value = loss(torch.tensor([[1.0, 0.0], [0.8, 0.6]]), torch.tensor([0, 2]))
        >>> (value.shape, loss.proxies.shape)
        (torch.Size([]), torch.Size([3, 2]))
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        scale: float = 32.0,
        margin: float = 0.1,
        reduction: str = "mean",
    ) -> None:
        check_at_least(1, embedding_dim=embedding_dim, num_classes=num_classes)
        check_positive(scale=scale)
        super().__init__(reduction)
        self.scale = scale
        self.margin = margin
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def positive(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the smooth maximum of what positives lack."""
        exponents = -self.scale * (similarities - self.margin)
        return weighted_log_sum_exp(exponents, weight, plus_one=True)

    def negative(self, similarities: Tensor, weight: Tensor) -> Tensor:
        """Return the smooth maximum of what negatives exceed."""
        exponents = self.scale * (similarities + self.margin)
        return weighted_log_sum_exp(exponents, weight, plus_one=True)

    def of_anchors(self, similarities: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return a value for every proxy, (C,), whose mean is the loss; every rank has all."""
        present = (positive > 0).any(1).sum().clamp(min=1)
        scale = len(similarities) / present.to(similarities.dtype)
        return scale * self.positive(similarities, positive) + self.negative(similarities, negative)

    def anchors(self, embeddings: Tensor, labels: Tensor, start: int = 0) -> Anchors:
        """Return the proxies, whatever the batch."""
        proxies = at_least_float32(self.proxies)
        classes = torch.arange(len(proxies), device=labels.device)
        return Anchors(F.normalize(proxies, dim=-1), classes, None)

    def of_rows(self, values: Tensor, rows: int) -> Tensor:
        """Return the loss of the whole batch for each of this rank's rows."""
        return values.mean().expand(rows)
