"""Margin disparity discrepancy: features on which a second classifier cannot disagree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.adaptation.class_discriminators import SOURCE, TARGET
from framework.distributed.collectives import global_mean
from framework.layers.gradient_reversal import reverse_gradient
from framework.utilities.checks import check_positive
from framework.utilities.precision import at_least_float32
from modules.domain_adaptation.alignment import Aligned, Alignment


class MDD(Alignment):
    r"""Trains an adversary to agree with the classifier on the source and to disagree elsewhere.

    With the class :math:`k_i` that the classifier predicts and the adversary's probabilities
    :math:`\sigma`, the term is

    .. math:: -\frac{\gamma}{B_s} \sum_{i \in S} \log \sigma_{k_i}(x_i)
        - \frac1{B_t} \sum_{i \in T} \log(1 - \sigma_{k_i}(x_i)),

    which the adversary minimizes and the features, behind a gradient reversal, maximize. The
    classifier gets no gradient.

    Paper: Zhang et al., *Bridging Theory and Algorithm for Domain Adaptation*, ICML 2019,
    arXiv:1904.05801, published with a reversal of at most 0.1. As in its code the adversary has one
    hidden layer; there both have dropout, and the classifier has a hidden layer too.

    Args:
        margin: Factor :math:`\gamma`, the exponential of the margin; published are 2 to 4.

    Raises:
        ValueError: ``margin`` is not a finite number above 0.

    Example:
        >>> import torch
        >>> from modules.domain_adaptation import MDD
        >>> alignment = MDD(margin=4.0)
        >>> alignment.build(num_features=4, num_classes=3, width=16)
        >>> domain = torch.tensor([0, 1, 1])
        >>> alignment(torch.randn(3, 4), torch.randn(3, 3), domain, 0.1).term.ndim
        0
    """

    def __init__(self, margin: float = 4.0) -> None:
        super().__init__()
        check_positive(margin=margin)
        self.margin = margin

    def build(self, num_features: int, num_classes: int, width: int) -> None:
        """Make the adversary."""
        self.adversary = nn.Sequential(
            nn.Linear(num_features, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(
        self, features: Tensor, logits: Tensor, domain: Tensor, coefficient: float
    ) -> Aligned:
        """Return the loss of the adversary."""
        scores = at_least_float32(self.adversary(reverse_gradient(features, coefficient)))
        predicted = logits.argmax(1)[:, None]
        log_sigma = F.log_softmax(scores, dim=1)
        agree = -log_sigma.gather(1, predicted).squeeze(1)
        # the sum of the others keeps its digits where sigma is nearly 1
        disagree = -log_sigma.scatter(1, predicted, -torch.inf).logsumexp(1)
        source = global_mean(agree, domain == SOURCE)
        return Aligned(self.margin * source + global_mean(disagree, domain == TARGET))
