"""Logits and predictions of a bias-free linear head for every prefix of its features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framework.utilities.precision import at_least_float32


def prefix_logits(features: Tensor, weight: Tensor) -> Tensor:
    """Return the logits of a linear head for the first 1, 2, ..., H channels alone.

    One cumulative sum, O(H B K), instead of H heads, O(H^2 B K). Half precision is summed in
    float32; differentiable.

    Args:
        features: (B, H).
        weight: (K, H), as in ``nn.Linear``.

    Returns:
        (H, B, K); entry k-1 is ``features[:, :k] @ weight[:, :k].T``. It is large: to evaluate many
        channels and classes, use ``prefix_predictions``.

    Raises:
        ValueError: the channels differ.

    Example:
        >>> import torch
        >>> from framework.ops.prefix import prefix_logits
        >>> weight = torch.tensor([[1.0, 0.5], [0.0, -1.0]])
        >>> prefix_logits(torch.tensor([[1.0, 2.0]]), weight)[:, 0]
        tensor([[ 1.,  0.],
                [ 2., -2.]])
    """
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"prefix_logits takes features (B, H) and a weight (K, H), got "
            f"{tuple(features.shape)} and {tuple(weight.shape)}."
        )
    features, weight = at_least_float32(features), at_least_float32(weight)
    return (features.T[:, :, None] * weight.T[:, None, :]).cumsum(0)


@torch.no_grad()
def prefix_predictions(
    features: Sequence[Tensor], weights: Sequence[Tensor], max_elements: int = 2**21
) -> Tensor:
    """Return the class that the mean logits of several networks give for every prefix.

    Args:
        features: Features of each network, (B, H).
        weights: Weight of each network's head, (K, H).
        max_elements: Approximate number of logits, H B K, that a group of rows has at a time.

    Returns:
        (H, B) int64; row k-1 are the classes predicted from the first k channels.

    Example:
        >>> import torch
        >>> from framework.ops.prefix import prefix_predictions
        >>> one, two = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0]])
        >>> weight = torch.tensor([[1.0, -1.0], [0.0, 1.0]])
        >>> prefix_predictions([one, two], [weight, weight])
        tensor([[0],
                [1]])
    """
    classes, channels = weights[0].shape
    rows = max(1, max_elements // (channels * classes))
    parts = []
    for group in zip(*[x.split(rows) for x in features], strict=True):
        # the mean's divisor does not change which class is largest
        logits = [prefix_logits(x, w) for x, w in zip(group, weights, strict=True)]
        parts.append(sum(logits[1:], start=logits[0]).argmax(-1))
    return torch.cat(parts, dim=1)
