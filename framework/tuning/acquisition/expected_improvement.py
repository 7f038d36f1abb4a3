"""Expected improvement, and its logarithm far below the best value."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TAIL = -30.0
"""Standardized improvement below which a series in its square is exact to the last digits."""
_SERIES = (1.0, -3.0, 15.0, -105.0, 945.0, -10395.0)
_TINY = 1e-150
"""Its square is still a number."""


def expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor | float) -> Tensor:
    """Return ``E[max(f - best, 0)]`` of normal values f, which are maximized.

    That is ``d Phi(d / s) + s phi(d / s)`` with ``d = mean - best``, and ``max(d, 0)`` where the
    deviation s is 0. Shapes are broadcast.

    Paper: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811, section 4.1, which says
    the same in other words.

    Args:
        mean: Means.
        deviation: Standard deviations, at least 0.
        best: Best value so far.

    Example:
        >>> values = torch.tensor([1.0, 0.3], dtype=torch.float64)
        >>> expected_improvement(values, torch.tensor(0.5), 0.8)
        tensor([0.3152, 0.0417], dtype=torch.float64)
    """
    gain = mean - best
    z = gain / deviation.clamp(min=_TINY)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return gain * torch.special.ndtr(z) + deviation * density


def log_expected_improvement(mean: Tensor, deviation: Tensor, best: Tensor | float) -> Tensor:
    """Return the logarithm of the expected improvement, also where that is too small for a float.

    Paper: Ament et al., *Unexpected Improvements to Expected Improvement for Bayesian
    Optimization*, arXiv:2310.20708; below -30 deviations this takes the asymptotic series, which
    loses no digits.

    Args:
        mean: Means.
        deviation: Standard deviations, above 0.
        best: Best value so far.

    Example:
        >>> far = torch.tensor(-1.7, dtype=torch.float64)
        >>> log_expected_improvement(far, torch.tensor(0.5), 0.8)
        tensor(-17.4374, dtype=torch.float64)
    """
    return log_h((mean - best) / deviation) + deviation.log()


def log_h(z: Tensor) -> Tensor:
    """Return ``log(phi(z) + z Phi(z))``: log expected improvement at deviation 1."""
    # each branch sees only arguments at which its slope is finite, too
    high = torch.where(z > -1, z, 0.0)
    near = torch.exp(-high.square() / 2) / math.sqrt(2 * math.pi)
    above = torch.log(near + high * torch.special.ndtr(high))
    middle = torch.where((z <= -1) & (z > _TAIL), z, -1.0)
    # z Phi(z) / phi(z), from -1 at minus infinity on
    ratio = middle * torch.special.erfcx(-middle / math.sqrt(2)) * math.sqrt(math.pi / 2)
    below = torch.log1p(ratio)
    square = torch.where(z <= _TAIL, z, _TAIL).square()
    series = sum(term / square**power for power, term in enumerate(_SERIES))
    tail = torch.log(torch.as_tensor(series)) - square.log()
    log_density = -z.square() / 2 - math.log(2 * math.pi) / 2
    return torch.where(z > -1, above, log_density + torch.where(z > _TAIL, below, tail))
