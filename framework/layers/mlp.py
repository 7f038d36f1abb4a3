"""The perceptron that several domains use as a body."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp_body(num_inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """Return a perceptron with ReLU after each of its layers, on flattened inputs."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        num_inputs = width
    return nn.Sequential(*layers)
