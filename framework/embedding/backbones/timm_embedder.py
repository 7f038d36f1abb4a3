"""Any timm model as a network from images to embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout
from framework.layers.timm_backbone import timm_features
from framework.utilities.checks import check_at_least


class TimmEmbedder(nn.Module):
    """A timm model, and a neck of BN, dropout, a linear layer and BN.

    Models are made for images of 224 pixels and more. On those of 112 pixels and less the strides
    of the stem, or a transformer's patches, are smaller, so that the last map has about as many
    positions. The embedding is not normalized.

    Shapes: images (B, C, H, W) to (B, ``embedding_dim``).

    Args:
        name: Name of the model, such as ``resnet50`` or ``vit_small_patch16_224``.
        embedding_dim: Size of the embedding.
        input_shape: Shape (C, H, W) of an image.
        dropout: Probability of dropout before the linear layer.
        pretrained: Whether to load timm's weights.
        checkpointing: Whether the backward pass recomputes activations instead of keeping them.
        others: Further names that the caller knows, which a message lists.

    Raises:
        ValueError: timm has no such model, or the model takes no such images or, with
            ``checkpointing``, does not recompute.

    Example:
        >>> import torch
        >>> from framework.embedding.backbones import TimmEmbedder
        >>> network = TimmEmbedder("resnet10t", 32, (3, 112, 112))
        >>> tuple(network.forward_features(torch.zeros(2, 3, 112, 112)).shape)
        (2, 512, 7, 7)
    """

    def __init__(
        self,
        name: str,
        embedding_dim: int = 512,
        input_shape: Sequence[int] = (3, 112, 112),
        dropout: float = 0.0,
        pretrained: bool = False,
        checkpointing: bool = False,
        others: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_at_least(1, embedding_dim=embedding_dim)
        self.embedding_dim = embedding_dim
        self.body: Any  # timm's models share methods, and no class that names them
        self.body, num_features = timm_features(
            name, input_shape, pretrained, others, small_images=True
        )
        if checkpointing:
            try:
                self.body.set_grad_checkpointing()
            except (AssertionError, AttributeError):
                raise ValueError(
                    f"The backbone {name!r} recomputes no activations; set checkpointing to false."
                ) from None
        self.neck = nn.Sequential(
            nn.BatchNorm1d(num_features),
            GlobalDropout(dropout, stream="embedding"),
            nn.Linear(num_features, embedding_dim),
            nn.BatchNorm1d(embedding_dim),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings, not normalized."""
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the last maps, or the tokens of a transformer."""
        return self.body.forward_features(image)

    def forward_head(self, maps: Tensor) -> Tensor:
        """Return the embeddings of maps or tokens."""
        return self.neck(self.body.forward_head(maps))
