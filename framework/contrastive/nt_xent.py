"""The contrastive loss of SimCLR."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.contrastive.paired_views import paired_views
from framework.distributed.collectives import all_reduce_sum_with_grad, rank
from framework.losses.loss import Loss
from framework.utilities.checks import check_positive


class NTXentLoss(Loss):
    r"""Cross-entropy of finding a view's partner among all other views of the global batch.

    With cosine similarities sim and a temperature for all, the loss of the anchor i with partner p
    is :math:`-\log \frac{e^{sim(i, p) / \tau}}{\sum_{j \ne i} e^{sim(i, j) / \tau}}`, and its mean
    over the 2B anchors is returned. The views of all ranks are gathered with gradient: two ranks
    take the step of one process, and the value is the same on every rank.

    Shapes: predictions (B, d), the embeddings of first views; targets (B, d), those of the second
    views of the same samples, with gradient; returns a scalar.

    Paper: Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, arXiv:2002.05709. Equal to pytorch-metric-learning's loss of this name with one label
    per sample, which needs the memory of 2B (2B)² numbers and gathers without gradient.

    Cost: O(B² d) for the similarities of a global batch of B, divided among the ranks.

    Use it for: learning without labels where classes are about equally frequent.

    Args:
        temperature: Temperature of the similarities, above 0; the paper takes 0.5 for CIFAR-10 and
            0.1 for ImageNet.

    Raises:
        ValueError: ``temperature`` is not above 0, or the embeddings have different shapes.

    Example:
        >>> import torch
        >>> from framework.contrastive import NTXentLoss
        >>> first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> second = torch.tensor([[0.8, 0.6], [0.6, 0.8]])
        >>> NTXentLoss(temperature=0.5)(first, second)
        tensor(0.8707)
    """

    batch_coupled: ClassVar[bool] = True

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def compute(self, predictions: Tensor, targets: Tensor, **needs: Any) -> Tensor:
        """Return the mean over the anchors of all ranks."""
        views = paired_views(predictions, targets)
        own, rows = len(predictions), views.rows
        logits = (
            torch.cat([views.first, views.second])
            @ torch.cat([views.all_first, views.all_second]).T
        )
        start = sum(views.counts[: rank()])
        place = torch.arange(start, start + own, device=logits.device)
        itself, partner = torch.cat([place, place + rows]), torch.cat([place + rows, place])
        logits = (logits / self.temperature).scatter(1, itself[:, None], -torch.inf)
        total = F.cross_entropy(logits, partner, reduction="sum")
        return all_reduce_sum_with_grad(total) / max(1, 2 * rows)
