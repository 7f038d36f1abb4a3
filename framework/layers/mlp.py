"""The hidden layers of a perceptron, on flattened inputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp_body(num_inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Return the hidden layers of a perceptron, each followed by ReLU, on flattened inputs.

    Args:
        num_inputs: Number of values of an input.
        widths: Widths of the layers; none gives the flattened input itself.

    Example:
        >>> import torch
        >>> from framework.layers.mlp import mlp_body
        >>> tuple(mlp_body(64, (32, 16))(torch.zeros(2, 8, 8)).shape)
        (2, 16)
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        num_inputs = width
    return nn.Sequential(*layers)
