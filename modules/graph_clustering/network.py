"""The perceptrons of a graph clustering, which see a node's features alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from framework.utilities.checks import check_at_least


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers between given sizes, with a ReLU between each two of them.

    Args:
        sizes: Sizes of the input, of every hidden layer, and of the output.

    Raises:
        ValueError: Fewer than two sizes, or one below 1.

    Example:
        >>> perceptron([64, 128, 10])
        Sequential(
          (0): Linear(in_features=64, out_features=128, bias=True)
          (1): ReLU()
          (2): Linear(in_features=128, out_features=10, bias=True)
        )
    """
    check_at_least(2, number_of_sizes=len(sizes))
    check_at_least(1, size=min(sizes))
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
