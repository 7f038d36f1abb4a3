"""Conditional domain-adversarial training: no domain in features and predictions together."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.layers.gradient_reversal import reverse_gradient
from framework.utilities.checks import check_at_least
from framework.utilities.precision import at_least_float32
from modules.domain_adaptation.alignment import (
    Aligned,
    Alignment,
    domain_loss,
    make_discriminator,
)

LARGEST_MAP = 4096


def multilinear_map(features: Tensor, probability: Tensor) -> Tensor:
    """Return every product of a feature and a class probability.

    Args:
        features: Features (B, F).
        probability: Class probabilities (B, K).

    Returns:
        Products (B, K * F); the F products of class 0 come first.

    Example:
        >>> import torch
        >>> from modules.domain_adaptation.cdan import multilinear_map
        >>> multilinear_map(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.2500, 0.5000, 0.7500, 1.5000]])
    """
    return (probability[:, :, None] * features[:, None]).flatten(1)


class CDAN(Alignment):
    r"""Trains a discriminator on the products of features f and class probabilities g.

    The gradient reaches the features, but not the classifier. Where f and g have more than 4096
    products, it sees :math:`(R_f f) \odot (R_g g) / \sqrt d` instead, with fixed Gaussian matrices,
    whose inner products are those of the map in expectation.

    Paper: Long et al., *Conditional Adversarial Domain Adaptation*, NeurIPS 2018, arXiv:1705.10667.
    The weights of the entropy conditioning have the same sum in both domains, as in the paper's
    code (thuml/CDAN), and are constant for the gradient, as in thuml/Transfer-Learning-Library;
    the former lets the reversed gradient through them.

    Args:
        entropy: Whether a row is weighed by 1 + exp(-entropy of g), so that certain predictions
            count more (CDAN+E).
        random_dim: Number d of projected products.

    Raises:
        ValueError: ``random_dim`` is below 1.

    Example:
        >>> import torch
        >>> from modules.domain_adaptation import CDAN
        >>> alignment = CDAN(entropy=True)
        >>> alignment.build(num_features=4, num_classes=3, width=16)
        >>> alignment.discriminator.num_inputs
        12
    """

    discriminates: ClassVar[bool] = True
    random_features: Tensor | None
    random_classes: Tensor | None

    def __init__(self, entropy: bool = False, random_dim: int = 1024) -> None:
        super().__init__()
        check_at_least(1, random_dim=random_dim)
        self.entropy = entropy
        self.random_dim = random_dim

    def build(self, num_features: int, num_classes: int, width: int) -> None:
        """Make the discriminator and, where the map is large, draw its random projection."""
        products = num_features * num_classes
        projects = products > LARGEST_MAP
        for name, size in (("random_features", num_features), ("random_classes", num_classes)):
            self.register_buffer(name, torch.randn(size, self.random_dim) if projects else None)
        self.discriminator = make_discriminator(self.random_dim if projects else products, width)

    def forward(
        self, features: Tensor, logits: Tensor, domain: Tensor, coefficient: float
    ) -> Aligned:
        """Return the loss of the discriminator, and its log-odds."""
        log_g = F.log_softmax(at_least_float32(logits.detach()), dim=1)
        f, g = reverse_gradient(features, coefficient), log_g.exp().to(features.dtype)
        logit = self.discriminator(self.joint(f, g)).squeeze(1)
        weight = 1 + (log_g.exp() * log_g).sum(1).exp() if self.entropy else None
        return Aligned(domain_loss(logit, domain, weight), logit)

    def joint(self, features: Tensor, probability: Tensor) -> Tensor:
        """Return the input of the discriminator, (B, K * F) or (B, d)."""
        if self.random_features is None or self.random_classes is None:
            return multilinear_map(features, probability)
        f, g = features @ self.random_features, probability @ self.random_classes
        return f * g / math.sqrt(self.random_dim)
