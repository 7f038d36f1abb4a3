"""A classifier whose features are drawn from two domains, with a discriminator for every class."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from framework.adaptation.bayes_refinement import bayes_refine
from framework.adaptation.grouped_mlp import GroupedMLP
from framework.utilities.checks import check_at_least
from framework.utilities.precision import at_least_float32
from modules.classifier.network import ClassifierNetwork


class AdaptationNetwork(ClassifierNetwork):
    """A body, a bottleneck of linear map, batch norm and ReLU, and a linear head.

    Args:
        network: Network whose body is taken; the head is made anew.
        bottleneck: Number F of features; None for those of the body as they are.
        discriminator_width: Width of the two hidden layers of the discriminators, one for each
            class; None for no discriminators.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        bottleneck: int | None = 256,
        discriminator_width: int | None = None,
    ) -> None:
        inputs, classes = network.head.in_features, network.head.out_features
        check_at_least(1, bottleneck=bottleneck, discriminator_width=discriminator_width)
        super().__init__(network.body, inputs if bottleneck is None else bottleneck, classes)
        self.bottleneck = nn.Sequential()
        if bottleneck is not None:
            # batch norm would take a bias away
            self.bottleneck.append(nn.Linear(inputs, bottleneck, bias=False))
            self.bottleneck.append(nn.BatchNorm1d(bottleneck))
            self.bottleneck.append(nn.ReLU())
        self.class_discriminators: GroupedMLP | None = None
        if discriminator_width is not None:
            hidden = (discriminator_width, discriminator_width)
            self.class_discriminators = GroupedMLP(classes, self.num_features, hidden)

    @property
    def num_features(self) -> int:
        """Number F of features."""
        return self.head.in_features

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and features (B, F)."""
        features = self.bottleneck(self.body(image))
        return self.head(features), features

    def refined(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the class probabilities of rows of the target, corrected by the discriminators.

        Args:
            features: Features (B, F); they get a gradient through the head, which gets none.

        Returns:
            Log-probabilities (B, K), and (B, K) log-odds that a row which is of class k is of the
            target, whose gradient reaches the discriminators alone. Without discriminators the
            probabilities are those of the head, and there are no log-odds.
        """
        logits = F.linear(features, self.head.weight.detach(), self.head.bias.detach())
        if self.class_discriminators is None:
            return F.log_softmax(at_least_float32(logits), dim=1), None
        of_target = self.class_discriminators(features.detach())
        return bayes_refine(logits, F.logsigmoid(of_target.detach())), of_target
