"""Linear layer whose weights respond to hyperparameters."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.response.conditioning import Conditioning
from framework.layers.response.layer import ResponseLayer, per_row


class ResponseLinear(ResponseLayer, nn.Linear):
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

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        """Return the response of every row."""
        h = self.seen(len(input) if input.dim() > 1 else 1)
        if input.dim() == 1:
            h = h.reshape(-1)
        if h.dim() == 1:
            bias = None if self.bias is None else self.effective("bias", h)
            return F.linear(input, self.effective("weight", h), bias)
        y = F.linear(input, self.weight, self.bias)
        response = F.linear(input, self.get_parameter("weight_response"))
        y = torch.addcmul(y, per_row(self.gate("weight", h), y, -1), response)
        if self.bias is not None:
            gates = per_row(self.gate("bias", h), y, -1)
            y = torch.addcmul(y, gates, self.get_parameter("bias_response").to(y.dtype))
        return y
