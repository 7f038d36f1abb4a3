"""Networks whose output is one number, an energy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers.mlp import mlp_body
from framework.utilities.precision import at_least_float32


class EnergyMLP(nn.Module):
    """Perceptron from a row to its energy, which is 0 everywhere at the start.

    The last layer has no bias, as a constant of the energy changes no density, and is computed in
    float32 at least, as densities are exponentials of energies.

    Args:
        num_inputs: Number of values of an input, whose other shape is flattened.
        widths: Widths of the hidden layers, of which there is one at least.

    Raises:
        ValueError: There is no hidden layer.

    Example:
        >>> import torch
        >>> EnergyMLP(2, (16,))(torch.ones(3, 2))
        tensor([0., 0., 0.], grad_fn=<SqueezeBackward1>)
    """

    def __init__(self, num_inputs: int, widths: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths must name one hidden layer at least.")
        self.body = mlp_body(num_inputs, widths)
        self.head = nn.Linear(widths[-1], 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the energies (B,) of inputs (B, ...)."""
        # draws and grids have the numbers of their own, the weights perhaps those of half precision
        hidden = at_least_float32(self.body(x.to(self.head.weight.dtype)))
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(hidden, at_least_float32(self.head.weight)).squeeze(1)
