"""Linear layer whose weights respond to hyperparameters."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.product import ResponseProduct


class ResponseLinear(ResponseProduct, nn.Linear):
    """Linear layer ``y = W0 x + b0 + (V h) * (W1 x) + (U h) * b1`` of hyperparameters h.

    It approximates how the best weights follow h, of which each row of a batch may have its own.
    One h for all rows costs one product with the sum of both weights.

    Shapes: (B, ..., in) to (B, ..., out); h (n,), or (B, n) where the gates of row b hold for all
    its inner axes; an input (in,) takes h (n,) or (1, n).

    Paper: MacKay et al., Self-Tuning Networks, ICLR 2019, arXiv:1903.03088, equation 10. The
    released code multiplies ``W0 x + b0`` by one more learned number, which the paper lacks and
    this leaves out.

    Args:
        in_features: Size of an input row.
        out_features: Size of an output row.
        conditioning: Holder of the hyperparameters.
        bias: Whether to learn a bias.
        gate_scale: Standard deviation of V and U at the start.
        device: Device of the parameters.
        dtype: Type of the parameters; gates are in float32 at least.

    Raises:
        ValueError: the input has not as many rows as there are hyperparameters.

    Example:
        >>> import torch
        >>> from framework.layers import Conditioning, ResponseLinear
        >>> conditioning = Conditioning(2)
        >>> layer = ResponseLinear(3, 4, conditioning)
        >>> with conditioning.at(torch.zeros(5, 2)):
        ...     layer(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    ordinary = nn.Linear
    output_axis = -1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        conditioning: Conditioning,
        bias: bool = True,
        gate_scale: float = 0.01,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.start_response(conditioning, gate_scale)

    def product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        """Return ``input @ weight.T + bias``."""
        return F.linear(input, weight, bias)

    def has_rows(self, input: Tensor) -> bool:  # noqa: A002
        """Return whether the input is more than one vector."""
        return input.dim() > 1
