"""A perceptron that embeds tiny images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.utilities.checks import check_at_least


class MLPEmbedder(nn.Module):
    """Linear layers with BN and ReLU on the pixels, then a linear layer and BN without scale.

    Shapes: images (B, C, H, W) to (B, ``embedding_dim``).

    Args:
        embedding_dim: Size of the embedding.
        input_shape: Shape (C, H, W) of an image.
        widths: Widths of the hidden layers.
        dropout: Probability of dropout before the last linear layer.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.embedding.backbones import MLPEmbedder
        >>> tuple(MLPEmbedder(32, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape)
        (2, 32)
    """

    def __init__(
        self,
        embedding_dim: int,
        input_shape: Sequence[int],
        widths: Sequence[int] = (128,),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, embedding_dim=embedding_dim, widths=min(widths, default=1))
        self.embedding_dim = embedding_dim
        inputs = math.prod(input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.neck = nn.Sequential(
            GlobalDropout(dropout, stream="embedding"),
            nn.Linear(inputs, embedding_dim, bias=False),
            nn.BatchNorm1d(embedding_dim, affine=False),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings, not normalized."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the values of the last hidden layer."""
        return self.body(image)

    def forward_head(self, maps: Tensor) -> Tensor:
        """Return the embeddings of hidden values."""
        return self.neck(maps)
