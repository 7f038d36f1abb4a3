"""Convolutions whose weights respond to hyperparameters."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

from torch import Tensor, nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.product import ResponseProduct


class ConvOptions(TypedDict, total=False):
    """Further arguments of torch's convolutions, with torch's defaults.

    Args:
        stride: Step of the kernel.
        padding: Values added at each side, or ``'same'`` or ``'valid'``.
        dilation: Distance of the kernel's places.
        groups: Number of groups of channels.
        bias: Whether to learn a bias.
        padding_mode: Kind of padding; ``'zeros'``, ``'reflect'``, ``'replicate'``, ``'circular'``.
        device: Device of the parameters.
        dtype: Type of the parameters; gates are in float32 at least.
    """

    stride: int | tuple[int, ...]
    padding: int | str | tuple[int, ...]
    dilation: int | tuple[int, ...]
    groups: int
    bias: bool
    padding_mode: str
    device: Any
    dtype: Any


class ResponseConv(ResponseProduct):
    """Convolution ``conv(x, W0) + b0 + (V h) * conv(x, W1) + (U h) * b1`` of hyperparameters h.

    There is one gate for each channel of the output, and with h (B, n) for each sample. One h for
    all samples costs one convolution with the sum of both weights.

    Shapes: (B, C, *) to (B, D, *); h (n,) or (B, n); an input without the first axis takes h (n,)
    or (1, n).

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, section 3.3.

    Args:
        in_channels: Number C of channels of an input.
        out_channels: Number D of channels of an output.
        kernel_size: Size of the kernel, one for all axes or one for each.
        conditioning: Holder of the hyperparameters.
        gate_scale: Standard deviation of V and U at the start.
        options: Further arguments of the ordinary layer.
    """

    output_axis = 1
    kernel_size: tuple[int, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        conditioning: Conditioning,
        gate_scale: float = 0.01,
        **options: Unpack[ConvOptions],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)
        self.start_response(conditioning, gate_scale)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        """Return the convolution, padded as torch does it."""
        convolve: Any = self._conv_forward
        return convolve(input, weight, bias)

    def has_rows(self, input: Tensor) -> bool:  # noqa: A002
        """Return whether there is an axis of samples before that of channels."""
        return input.dim() == len(self.kernel_size) + 2


class ResponseConv1d(ResponseConv, nn.Conv1d):
    """Convolution over one axis that responds to hyperparameters; see ``ResponseConv``.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseConv1d
        >>> layer = ResponseConv1d(3, 4, 5, Conditioning(2), padding="same")
        >>> with layer.conditioning.at(torch.zeros(7, 2)):
        ...     layer(torch.ones(7, 3, 10)).shape
        torch.Size([7, 4, 10])
    """

    ordinary = nn.Conv1d


class ResponseConv2d(ResponseConv, nn.Conv2d):
    """Convolution over two axes that responds to hyperparameters; see ``ResponseConv``.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseConv2d
        >>> layer = ResponseConv2d(3, 4, 3, Conditioning(2), stride=2, padding=1)
        >>> with layer.conditioning.at(torch.zeros(7, 2)):
        ...     layer(torch.ones(7, 3, 8, 8)).shape
        torch.Size([7, 4, 4, 4])
    """

    ordinary = nn.Conv2d


class ResponseConv3d(ResponseConv, nn.Conv3d):
    """Convolution over three axes that responds to hyperparameters; see ``ResponseConv``.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseConv3d
        >>> layer = ResponseConv3d(2, 4, 3, Conditioning(2), groups=2)
        >>> with layer.conditioning.at(torch.zeros(2)):
        ...     layer(torch.ones(7, 2, 4, 4, 4)).shape
        torch.Size([7, 4, 2, 2, 2])
    """

    ordinary = nn.Conv3d
