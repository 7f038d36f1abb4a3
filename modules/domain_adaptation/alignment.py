"""Alignment of the features of two domains: the interface, and what several alignments share.

In ``domain`` 0 is the source, whose labels are known, and 1 the target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.adaptation.class_discriminators import SOURCE, TARGET
from framework.adaptation.grouped_mlp import GroupedMLP
from framework.distributed.collectives import global_mean
from framework.utilities.precision import at_least_float32


class Aligned(NamedTuple):
    """Output of an alignment for a batch."""

    term: Tensor
    """A scalar, to be minimized. Its average over ranks, and that of its gradient, is the term of
    the global batch."""
    source_logit: Tensor | None = None
    """(B,) log-odds that a row is of the source, where a discriminator says so."""


class Alignment(nn.Module, ABC):
    """A term that draws the features of two domains together, with the networks that it needs.

    These are made by ``build``, once the module that owns it knows the sizes. Each domain
    counts half, however many rows it has; without rows it gives 0 with a gradient path.

    Class attributes:
        discriminates: Whether the alignment has a discriminator of the domains.
    """

    discriminates: ClassVar[bool] = False

    @abstractmethod
    def build(self, num_features: int, num_classes: int, width: int) -> None:
        """Make the networks.

        Args:
            num_features: Number F of features.
            num_classes: Number K of classes.
            width: Width of the hidden layers.
        """

    @abstractmethod
    def forward(
        self, features: Tensor, logits: Tensor, domain: Tensor, coefficient: float
    ) -> Aligned:
        """Return the term of a batch; a collective call.

        Args:
            features: Features (B, F), which get the reversed gradient.
            logits: Logits (B, K) of the classifier, which gets no gradient.
            domain: Domain of every row, (B,) int64.
            coefficient: Coefficient of the gradient reversal.
        """


def make_discriminator(num_inputs: int, width: int) -> GroupedMLP:
    """Return a perceptron with two hidden layers and batch norm, from (B, num_inputs) to (B, 1)."""
    return GroupedMLP(1, num_inputs, (width, width))


def domain_loss(source_logit: Tensor, domain: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Return the binary cross-entropy of a discriminator of domains, each of which counts half.

    .. math:: -\frac{1}{2} \Big( \sum_{i \in S} \frac{w_i}{w_S} \log D(x_i)
        + \sum_{i \in T} \frac{w_i}{w_T} \log(1 - D(x_i)) \Big)

    Args:
        source_logit: Log-odds (B,) of the source, whose probability D is their sigmoid.
        domain: Domain of every row, (B,) int64.
        weight: Weight w of every row, (B,), constant for the gradient; w_S and w_T are the sums of
            the domains. Default 1.

    Returns:
        Scalar whose average over ranks is the loss of the global batch.
    """
    logit = at_least_float32(source_logit)
    weight = torch.ones_like(logit) if weight is None else weight
    value = F.softplus(torch.where(domain == SOURCE, -logit, logit))
    halves = [global_mean(value, weight * (domain == side)) for side in (SOURCE, TARGET)]
    return (halves[0] + halves[1]) / 2
