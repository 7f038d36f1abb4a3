"""Plain softmax cross-entropy."""

from __future__ import annotations

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.embedding.heads.head import Candidates, ClassificationHead, HeadOptions


class SoftmaxHead(ClassificationHead):
    r"""Softmax cross-entropy of a linear layer, whose logits are :math:`w_j \cdot x + b_j`.

    The baseline of the other heads, on raw embeddings. See ``ClassificationHead`` for the shapes,
    for classes in parts and for samples of classes.

    Args:
        embedding_dim: Size d of an embedding.
        num_classes: Number C of classes, at least 2.
        bias: Whether there is a bias b of each class.
        **options: Arguments of ``ClassificationHead``, without a filter.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.embedding.heads import SoftmaxHead
        >>> head = SoftmaxHead(embedding_dim=8, num_classes=10)
        >>> loss, logs = head(torch.randn(4, 8), torch.tensor([0, 3, 3, 9]))
        >>> loss.backward()
    """

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        bias: bool = True,
        **options: Unpack[HeadOptions],
    ) -> None:
        super().__init__(embedding_dim, num_classes, **options)
        if bias:
            self.bias = nn.Parameter(torch.zeros(num_classes))

    def products(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits, (B, C_r)."""
        return F.linear(x, weight, bias)

    def own_cosine(self, own: Tensor, norms: Tensor, candidates: Candidates) -> Tensor:
        """Return the cosine of each row and its own class, without gradient."""
        column, here = candidates.column, candidates.here
        with torch.no_grad():
            facts = own.new_zeros(2, len(own))
            if len(candidates.weight):
                facts[0] = torch.linalg.vector_norm(candidates.weight[column], dim=1)
                if candidates.bias is not None:
                    facts[1] = candidates.bias[column]
            lengths, biases = self.part.sum(torch.where(here, facts, 0.0))
            return (own - biases) / (norms * lengths).clamp(min=1e-12)
