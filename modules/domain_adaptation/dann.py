"""Domain-adversarial training: features in which a discriminator finds no domain."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from framework.layers.gradient_reversal import reverse_gradient
from modules.domain_adaptation.alignment import (
    Aligned,
    Alignment,
    domain_loss,
    make_discriminator,
)


class DANN(Alignment):
    """Trains a discriminator of the domains, and the features against it.

    Paper: Ganin et al., *Domain-Adversarial Training of Neural Networks*, JMLR 2016,
    arXiv:1505.07818. The discriminator has two hidden layers with batch norm, as in the released
    code of Lv et al., arXiv:2112.04137, and no bias before it.

    Example:
        >>> import torch
        >>> from modules.domain_adaptation import DANN
        >>> alignment = DANN()
        >>> alignment.build(num_features=4, num_classes=3, width=16)
        >>> domain = torch.tensor([0, 1, 1])
        >>> tuple(alignment(torch.randn(3, 4), torch.zeros(3, 3), domain, 1.0).source_logit.shape)
        (3,)
    """

    discriminates: ClassVar[bool] = True

    def build(self, num_features: int, num_classes: int, width: int) -> None:
        """Make the discriminator."""
        self.discriminator = make_discriminator(num_features, width)

    def forward(
        self, features: Tensor, logits: Tensor, domain: Tensor, coefficient: float
    ) -> Aligned:
        """Return the loss of the discriminator, and its log-odds."""
        logit = self.discriminator(reverse_gradient(features, coefficient)).squeeze(1)
        return Aligned(domain_loss(logit, domain), logit)
