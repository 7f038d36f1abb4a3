"""What the weights of a solution are like: sparsity, norms, and pruning by magnitude."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SHARES = (0.5, 0.8, 0.9, 0.95, 0.98)
"""Shares of the weights that are pruned."""


def weights_of(module: nn.Module) -> list[Tensor]:
    """Return the trainable matrices and kernels of a module, without biases and other vectors."""
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1 and p.numel()]


@torch.no_grad()
def sparsity(weights: Sequence[Tensor], eps: float = 0.01) -> Tensor:
    r"""Return the share of weights with :math:`|w| < \epsilon \cdot` rms of their tensor.

    Args:
        weights: Weights.
        eps: Size, in units of the root mean square, below which a weight is as good as none;
            normally distributed weights have a share of 0.8 % below 0.01.

    Example:
        >>> sparsity([torch.tensor([[1.0, 0.001], [0.0, -1.0]])])
        tensor(0.5000)
    """
    small = [(w.abs() < eps * w.square().mean().sqrt()).sum() for w in weights]
    # a tensor of zeros has no weight that counts
    none = [w.numel() if not w.any() else n for w, n in zip(weights, small, strict=True)]
    return torch.as_tensor(sum(none) / max(sum(w.numel() for w in weights), 1)).float()


@torch.no_grad()
def weight_norms(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the Euclidean and the largest absolute value of all parameters together.

    Example:
        >>> weight_norms([torch.tensor([3.0]), torch.tensor([[-4.0]])])
        (tensor(5.), tensor(4.))
    """
    parts = [p for p in parameters if p.numel()]
    length = torch.stack([p.double().norm() for p in parts]).norm()
    largest = torch.stack([p.abs().max().double() for p in parts]).max()
    return length.float(), largest.float()


@contextmanager
def pruned_by_magnitude(weights: Sequence[Tensor], share: float) -> Iterator[None]:
    """Set the smallest weights of all tensors together to 0 inside the block, and put them back.

    Args:
        weights: Weights.
        share: Share of the weights that are 0 inside; of equal ones those that come first.
    """
    sizes = [w.numel() for w in weights]
    kept = [w.detach().clone() for w in weights]
    count = round(share * sum(sizes))
    sized = torch.cat([w.abs().flatten().float() for w in kept])
    mask = torch.ones_like(sized, dtype=torch.bool)
    mask[sized.argsort(stable=True)[:count]] = False
    try:
        with torch.no_grad():
            for weight, part in zip(weights, mask.split(sizes), strict=True):
                weight.mul_(part.view_as(weight))
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def pruning_curve(
    weights: Sequence[Tensor], accuracy: Callable[[], Tensor], shares: Sequence[float] = SHARES
) -> dict[float, Tensor]:
    """Return what a function measures after global magnitude pruning, by share; 0 is unpruned.

    Args:
        weights: Weights, which are as they were afterwards.
        accuracy: Function that measures the model of these weights.
        shares: Shares of the weights that are pruned, ascending.
    """
    curve = {0.0: accuracy()}
    for share in shares:
        with pruned_by_magnitude(weights, share):
            curve[share] = accuracy()
    return curve


def curve_area(curve: Mapping[float, Tensor]) -> Tensor:
    """Return the mean height of a curve by the trapezoidal rule, between its first and last place.

    Example:
        >>> curve_area({0.0: torch.tensor(1.0), 0.5: torch.tensor(1.0), 1.0: torch.tensor(0.0)})
        tensor(0.7500)
    """
    places = torch.tensor(list(curve), dtype=torch.float64)
    heights = torch.stack([value.double().cpu() for value in curve.values()])
    return (torch.trapezoid(heights, places) / (places[-1] - places[0])).float()
