"""A classifier whose head can be cut at any channel."""

from __future__ import annotations

from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.layers.nested_dropout import NestedDropout
from framework.utilities.checks import check_interval
from modules.classifier.network import ClassifierNetwork


class NestedNetwork(ClassifierNetwork):
    """A body that maps images to features, dropout on these, and a linear head without bias.

    Without a bias the logits are a sum over channels, so that those of every prefix of the features
    come from one cumulative sum.

    Args:
        network: Network whose body is taken; the head is made anew.
        sigma: Standard deviation of the nested dropout; None for no nested dropout.
        mu: Center of the nested dropout's distribution.
        dropout: Probability of ordinary dropout instead.
        stream: Name of the random stream of ordinary dropout, one for each of several networks.

    Raises:
        ValueError: Both kinds of dropout are used, or a value is out of its range.
    """

    def __init__(
        self,
        network: ClassifierNetwork,
        sigma: float | None,
        mu: float,
        dropout: float,
        stream: str = "dropout",
    ) -> None:
        features, classes = network.head.in_features, network.head.out_features
        super().__init__(network.body, features, classes)
        check_interval("[0, 1)", dropout=dropout)
        if dropout and sigma is not None:
            raise ValueError(
                "dropout is the baseline of nested dropout: set sigma to null to use it."
            )
        self.dropout: nn.Module = nn.Identity()
        if sigma is not None:
            self.dropout = NestedDropout(features, sigma, mu)
        elif dropout:
            self.dropout = GlobalDropout(dropout, stream)
        self.head = nn.Linear(features, classes, bias=False)

    @property
    def eval_k(self) -> int:
        """Channels used in evaluation."""
        if isinstance(self.dropout, NestedDropout) and self.dropout.eval_k is not None:
            return self.dropout.eval_k
        return self.head.in_features

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) and the features before dropout (B, D)."""
        features = self.body(image)
        return self.head(self.dropout(features)), features
