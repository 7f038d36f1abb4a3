"""The small network of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.utilities.checks import check_at_least

BLOCKS = 4


class ConvNet4(nn.Module):
    """Four blocks of 3x3 convolution, BN, ReLU and 2x2 max pooling, known as Conv-4-64.

    The embedding is the flattened map, or a linear layer of it.

    Shapes: images (B, C, H, W) of at least 16 x 16 to (B, ``embedding_dim``).

    Paper: Vinyals et al., Matching Networks, NeurIPS 2016, arXiv:1606.04080; Snell et al.,
    Prototypical Networks, NeurIPS 2017, arXiv:1703.05175.

    Args:
        embedding_dim: Size of the embedding; None for the flattened map itself.
        input_shape: Shape (C, H, W) of an image.
        width: Number of channels.
        dropout: Probability of dropout of the flattened map.

    Raises:
        ValueError: The image is smaller than 16 x 16, or an argument is out of its range.

    Example:
        >>> import torch
        >>> from framework.embedding.backbones import ConvNet4
        >>> tuple(ConvNet4(None, (3, 84, 84))(torch.zeros(2, 3, 84, 84)).shape)
        (2, 1600)
    """

    def __init__(
        self,
        embedding_dim: int | None = None,
        input_shape: Sequence[int] = (3, 84, 84),
        width: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, width=width)
        channels, height, columns = input_shape
        if min(height, columns) < 2**BLOCKS:
            raise ValueError(
                f"The backbone conv4 halves images {BLOCKS} times, so they are at least "
                f"{2**BLOCKS} x {2**BLOCKS}; got {height} x {columns}."
            )
        layers: list[nn.Module] = []
        for block in range(BLOCKS):
            layers += [
                nn.Conv2d(width if block else channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.body = nn.Sequential(*layers)
        flat = width * (height // 2**BLOCKS) * (columns // 2**BLOCKS)
        self.dropout = GlobalDropout(dropout, stream="embedding")
        self.linear: nn.Module = nn.Identity()
        self.embedding_dim = flat
        if embedding_dim is not None:
            check_at_least(1, embedding_dim=embedding_dim)
            self.linear = nn.Linear(flat, embedding_dim)
            self.embedding_dim = embedding_dim

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the maps of the last block."""
        return self.body(image)

    def forward_head(self, maps: Tensor) -> Tensor:
        """Return the embeddings of maps."""
        return self.linear(self.dropout(maps.flatten(1)))
