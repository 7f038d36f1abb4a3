"""Gaussian process regression with given hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from framework.utilities.checks import check_at_least

Kernel = Callable[[Tensor, Tensor], Tensor]


def rbf(a: Tensor, b: Tensor) -> Tensor:
    """Return ``exp(-|a - b|^2 / 2)`` of every pair of rows, shape (n, m).

    Args:
        a: Points (n, d) in units of the length scales.
        b: Points (m, d) in the same units.
    """
    return torch.exp(-(a[:, None] - b).square().sum(2) / 2)


def matern52(a: Tensor, b: Tensor) -> Tensor:
    """Return the Matérn kernel with smoothness 5/2 of every pair of rows, shape (n, m).

    It is ``(1 + r + r^2 / 3) exp(-r)`` with ``r = sqrt(5) |a - b|``.

    Args:
        a: Points (n, d) in units of the length scales.
        b: Points (m, d) in the same units.
    """
    squared = 5 * (a[:, None] - b).square().sum(2)
    # the root has no slope at 0, where the kernel has slope 0
    r = torch.where(squared > 0, squared, 1.0).sqrt() * (squared > 0)
    return (1 + r + squared / 3) * torch.exp(-r)


class Posterior(NamedTuple):
    """Joint normal distribution of the function's values at some points.

    Args:
        mean: Means (m,).
        covariance: Covariances (m, m), without the noise of observations.
    """

    mean: Tensor
    covariance: Tensor

    @property
    def deviation(self) -> Tensor:
        """Standard deviations (m,)."""
        return self.covariance.diagonal().clamp(min=0).sqrt()


class GaussianProcess:
    """What a Gaussian process with fixed hyperparameters says after some noisy observations.

    The function has the prior ``GP(mean, variance * k)`` and is observed with independent normal
    noise. Everything is exact, by one Cholesky factor, in the dtype of the inputs: take float64.

    Paper: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811, section 3. Its
    power-exponential kernel has ``exp(-|a - b|^2)``; this one has a half in the exponent, as
    BoTorch's has.

    Args:
        inputs: Observed points (n, d).
        targets: Observed values (n,).
        lengthscale: Length scale of every dimension, one number or (d,).
        variance: Variance of the function's value at one point.
        noise: Variance of the noise; 0 for exact observations.
        mean: Mean of the function's value.
        kernel: ``rbf``, ``matern52`` or a function like them.

    Raises:
        ValueError: Shapes that do not fit, or a negative number.

    Example:
        >>> x = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
        >>> y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)
        >>> process = GaussianProcess(x, y, lengthscale=0.5, noise=0.01)
        >>> process.posterior(torch.tensor([[0.2], [0.7]], dtype=torch.float64)).mean
        tensor([0.7163, 0.5716], dtype=torch.float64)
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        lengthscale: float | Tensor = 1.0,
        variance: float = 1.0,
        noise: float = 0.0,
        mean: float = 0.0,
        kernel: Kernel = rbf,
    ) -> None:
        if inputs.ndim != 2 or targets.shape != inputs.shape[:1]:
            raise ValueError(
                f"inputs must be (n, d) and targets (n,), got {tuple(inputs.shape)} and "
                f"{tuple(targets.shape)}."
            )
        check_at_least(0, variance=variance, noise=noise)
        self.inputs = inputs
        self.targets = targets
        self.noise = noise
        self._scale = lengthscale
        self._variance = variance
        self._mean = mean
        self._kernel = kernel
        unit = torch.eye(len(inputs), dtype=inputs.dtype, device=inputs.device)
        self._factor = torch.linalg.cholesky(self._prior(inputs, inputs) + noise * unit)
        self._weights = torch.cholesky_solve((targets - mean)[:, None], self._factor).squeeze(1)

    def posterior(self, points: Tensor) -> Posterior:
        """Return the distribution of the function's values at points (m, d)."""
        cross = self._prior(self.inputs, points)
        explained = torch.linalg.solve_triangular(self._factor, cross, upper=False)
        covariance = self._prior(points, points) - explained.T @ explained
        return Posterior(self._mean + cross.T @ self._weights, covariance)

    def log_marginal_likelihood(self) -> Tensor:
        """Return the log density of the observed values, a scalar."""
        fit = (self.targets - self._mean) @ self._weights / 2
        volume = self._factor.diagonal().log().sum()
        return -fit - volume - len(self.targets) * math.log(2 * math.pi) / 2

    def _prior(self, a: Tensor, b: Tensor) -> Tensor:
        return self._variance * self._kernel(a / self._scale, b / self._scale)
