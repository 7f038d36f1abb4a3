"""Several perceptrons on the same input, computed as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class GroupedMLP(nn.Module):
    """G perceptrons of one output each, with batch norm and ReLU after every hidden layer.

    They see the same input, share nothing, and take one matrix product per layer instead of G. A
    hidden layer has no bias, as batch norm would take it away. All weights are in the
    ``state_dict``: layer l in ``weights.l`` (G, inputs, outputs), the last bias in ``bias`` (G,).

    Shapes: (B, F) to (B, G).

    Args:
        num_groups: Number of groups G.
        num_inputs: Number of inputs F.
        widths: Widths of the hidden layers of each perceptron; none gives G linear maps.

    Raises:
        ValueError: a size below 1, or an input of another shape.

    Example:
        >>> import torch
        >>> from framework.adaptation.grouped_mlp import GroupedMLP
        >>> GroupedMLP(num_groups=12, num_inputs=256, widths=(32, 32))(torch.randn(8, 256)).shape
        torch.Size([8, 12])
    """

    def __init__(self, num_groups: int, num_inputs: int, widths: Sequence[int] = ()) -> None:
        super().__init__()
        if min(num_groups, num_inputs, *widths) < 1:
            raise ValueError(
                "num_groups, num_inputs and widths must be at least 1, got "
                f"{num_groups}, {num_inputs} and {list(widths)}."
            )
        self.num_groups = num_groups
        self.num_inputs = num_inputs
        sizes = [num_inputs, *widths, 1]
        self.weights = nn.ParameterList([torch.empty(num_groups, a, b) for a, b in pairwise(sizes)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(num_groups * width) for width in widths])
        self.bias = nn.Parameter(torch.empty(num_groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as ``torch.nn.Linear`` does."""
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all groups, (B, G)."""
        if x.ndim != 2 or x.shape[1] != self.num_inputs:
            raise ValueError(f"GroupedMLP takes (B, {self.num_inputs}), got {tuple(x.shape)}.")
        hidden, equation = x, "bi,gio->bgo"
        for weight, norm in zip(self.weights, self.norms, strict=False):
            product = torch.einsum(equation, hidden, weight)
            hidden = norm(product.flatten(1)).relu().view_as(product)
            equation = "bgi,gio->bgo"
        return torch.einsum(equation, hidden, self.weights[-1]).squeeze(2) + self.bias
