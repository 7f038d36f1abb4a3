"""DEPICT's network: a denoising auto-encoder that reconstructs every layer, and a soft head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.dropout import GlobalDropout

SLOPE = 0.01


class Layers(NamedTuple):
    """Output of ``MultiLayerDenoisingAE``; all tensors are (B, ...).

    Args:
        clean: Input x and the clean encoder's layers z_1, ..., z_L; the last is the code.
        noisy: Layers z_1, ..., z_L of the noisy encoder, which has the same weights.
        decoded: Reconstructions of x, z_1, ..., z_{L-1} from the noisy code.
    """

    clean: list[Tensor]
    noisy: list[Tensor]
    decoded: list[Tensor]


class MultiLayerDenoisingAE(nn.Module):
    """Convolutional auto-encoder whose decoder reconstructs every layer of the clean encoder.

    The encoder is run twice with the same weights: clean, and with dropout on the input and on each
    convolution's output. A fully connected layer with tanh makes the code. The decoder mirrors the
    encoder with weights of its own. All layers train together.

    Shapes: images (B, C, H, W) in [-1, 1], the range of the output; code (B, code_size).

    Paper: Ghasedi Dizaji et al., *Deep Clustering via Joint Convolutional Autoencoder Embedding and
    Relative Entropy Minimization*, ICCV 2017, arXiv:1704.06327. Kernels, paddings and dropout rates
    are those of the released code (herandy/DEPICT); weights are Glorot-uniform, biases 0.

    Args:
        input_shape: Shape (C, H, W) of an image.
        code_size: Size of the code.
        channels: Channels of each convolution.
        kernels: Kernel size of each convolution.
        strides: Stride of each convolution.
        paddings: Padding of each convolution.
        dropouts: Dropout rates behind the input and behind each convolution.

    Raises:
        ValueError: Lists have different lengths, a size is out of its range, or the image is too
            small.

    Example:
        >>> import torch
        >>> from modules.depict.network import MultiLayerDenoisingAE
        >>> network = MultiLayerDenoisingAE((1, 28, 28), code_size=10)
        >>> layers = network(torch.zeros(2, 1, 28, 28))
        >>> [tuple(z.shape[1:]) for z in layers.clean]
        [(1, 28, 28), (50, 13, 13), (50, 7, 7), (10,)]
        >>> [tuple(z.shape[1:]) for z in layers.decoded]
        [(1, 28, 28), (50, 13, 13), (50, 7, 7)]
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        code_size: int,
        channels: Sequence[int] = (50, 50),
        kernels: Sequence[int] = (4, 5),
        strides: Sequence[int] = (2, 2),
        paddings: Sequence[int] = (0, 2),
        dropouts: Sequence[float] = (0.1, 0.1, 0.0),
    ) -> None:
        super().__init__()
        depth = len(channels)
        lengths = (len(kernels), len(strides), len(paddings), len(dropouts) - 1)
        if len(input_shape) != 3 or depth < 1 or lengths != (depth,) * 4:
            raise ValueError(
                "input_shape must be [channels, height, width], and kernels, strides and paddings "
                f"as many as the {depth} channels, dropouts one more; got {list(input_shape)}, "
                f"{list(kernels)}, {list(strides)}, {list(paddings)} and {list(dropouts)}."
            )
        if min(*input_shape, code_size, *channels, *kernels, *strides) < 1 or min(paddings) < 0:
            raise ValueError(
                "input_shape, code_size, channels, kernels and strides must be at least 1, and "
                f"paddings at least 0; got {list(input_shape)}, {code_size}, {list(channels)}, "
                f"{list(kernels)}, {list(strides)} and {list(paddings)}."
            )
        convolutions: list[nn.Module] = []
        transposed: list[nn.Module] = []
        planes, *size = input_shape
        geometry = zip(channels, kernels, strides, paddings, strict=True)
        for out_planes, kernel, stride, padding in geometry:
            spare = [edge + 2 * padding - kernel for edge in size]
            if min(spare) < 0:
                raise ValueError(
                    f"A kernel of {kernel} with padding {padding} does not fit a map of "
                    f"{size[0]} x {size[1]}, to which images {list(input_shape)} shrink."
                )
            convolutions.append(nn.Conv2d(planes, out_planes, kernel, stride, padding))
            # what the stride left over comes back, so that every size is restored
            left_over = (spare[0] % stride, spare[1] % stride)
            transposed.append(
                nn.ConvTranspose2d(out_planes, planes, kernel, stride, padding, left_over)
            )
            planes, size = out_planes, [edge // stride + 1 for edge in spare]
        self.input_shape = tuple(input_shape)
        self.map_shape = (planes, *size)
        self.dropouts = nn.ModuleList(
            GlobalDropout(rate, stream=f"depict {layer}") for layer, rate in enumerate(dropouts)
        )
        self.convolutions = nn.ModuleList(convolutions)
        self.to_code = nn.Linear(planes * size[0] * size[1], code_size)
        self.from_code = nn.Linear(code_size, planes * size[0] * size[1])
        self.transposed = nn.ModuleList(reversed(transposed))
        for layer in (*convolutions, *transposed, self.to_code, self.from_code):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @property
    def encoder_parameters(self) -> list[nn.Parameter]:
        """Parameters of the encoder, on which both losses act."""
        return [*self.convolutions.parameters(), *self.to_code.parameters()]

    def encode(self, image: Tensor, noisy: bool = False) -> list[Tensor]:
        """Return z_1, ..., z_L, the last of them the code (B, code_size)."""
        drop = self.dropouts if noisy else [nn.Identity()] * len(self.dropouts)
        layers = []
        z = drop[0](image)
        for convolution, dropout in zip(self.convolutions, list(drop)[1:], strict=True):
            z = dropout(F.leaky_relu(convolution(z), SLOPE))
            layers.append(z)
        return [*layers, torch.tanh(self.to_code(z.flatten(1)))]

    def decode(self, code: Tensor) -> list[Tensor]:
        """Return the reconstructions of x, z_1, ..., z_{L-1}."""
        z = F.leaky_relu(self.from_code(code), SLOPE).unflatten(1, self.map_shape)
        layers = [z]
        for transposed in self.transposed[:-1]:
            z = F.leaky_relu(transposed(z), SLOPE)
            layers.append(z)
        return [torch.tanh(self.transposed[-1](z)), *reversed(layers)]

    def forward(self, image: Tensor) -> Layers:
        """Return clean, noisy and decoded layers."""
        noisy = self.encode(image, noisy=True)
        return Layers([image, *self.encode(image)], noisy, self.decode(noisy[-1]))


class DEPICTNetwork(nn.Module):
    """The auto-encoder and a linear head on its code, whose softmax assigns samples to clusters.

    Args:
        autoencoder: Auto-encoder with a code of one value per cluster.
        num_clusters: Number K of clusters.

    Example:
        >>> import torch
        >>> from modules.depict.network import DEPICTNetwork, MultiLayerDenoisingAE
        >>> network = DEPICTNetwork(MultiLayerDenoisingAE((1, 28, 28), code_size=10), 10)
        >>> network.logits(network.code(torch.zeros(2, 1, 28, 28))).shape
        torch.Size([2, 10])
    """

    def __init__(self, autoencoder: MultiLayerDenoisingAE, num_clusters: int) -> None:
        super().__init__()
        self.input_shape = autoencoder.input_shape
        self.autoencoder = autoencoder
        self.head = nn.Linear(autoencoder.to_code.out_features, num_clusters)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def code(self, image: Tensor) -> Tensor:
        """Return the clean code, (B, code_size)."""
        return self.autoencoder.encode(image)[-1]

    def logits(self, code: Tensor) -> Tensor:
        """Return the logits of the assignments, (B, K)."""
        return self.head(code)

    def forward(self, image: Tensor) -> tuple[Layers, Tensor]:
        """Return the layers and the logits of the noisy code."""
        layers = self.autoencoder(image)
        return layers, self.logits(layers.noisy[-1])

    @torch.no_grad()
    def place_clusters(self, centroids: Tensor) -> None:
        """Let row k of the head point at the k-th centroid, (K, code_size); the bias becomes 0."""
        self.head.weight.copy_(F.normalize(centroids, dim=1))
        self.head.bias.zero_()
