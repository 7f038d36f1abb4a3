"""What one more evaluation is worth: the knowledge gradient on a finite set of points."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from framework.tuning.acquisition.expected_improvement import log_h
from framework.tuning.acquisition.gaussian_process import GaussianProcess


def log_expected_gain(intercepts: Tensor, slopes: Tensor) -> Tensor:
    """Return ``log(E[max_i (a_i + b_i Z)] - max_i a_i)`` for a standard normal Z.

    The maximum is a piecewise linear function of Z. Each of its corners c, where the slope grows
    by s, adds ``s (phi(c) - |c| Phi(-|c|))``: no differences of large numbers, so that gains far
    too small for the difference itself are exact. The logarithm is minus infinity where one line
    is the highest everywhere. Differentiable; which lines matter does not change in first order.

    Paper: Frazier, Powell and Dayanik, *The Knowledge-Gradient Policy for Correlated Normal
    Beliefs*, INFORMS Journal on Computing 21(4), 2009.

    Args:
        intercepts: Intercepts a (..., n).
        slopes: Slopes b (..., n).

    Returns:
        (...,).

    Example:
        >>> log_expected_gain(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])).exp()
        tensor(0.3989)
    """
    order = _highest_lines(intercepts, slopes)
    a, b = intercepts.gather(-1, order), slopes.gather(-1, order)
    steps = b[..., 1:] - b[..., :-1]
    # where a line is repeated to fill the rows there is no corner
    real = steps > 0
    steps = torch.where(real, steps, 1.0)
    corners = torch.where(real, (a[..., :-1] - a[..., 1:]) / steps, 1.0)
    gains = torch.where(real, log_h(-corners.abs()) + steps.log(), -torch.inf)
    some = real.any(-1)
    # no slope is defined for the logarithm of a sum over nothing
    total = torch.logsumexp(torch.where(some[..., None], gains, 0.0), -1)
    return torch.where(some, total, -torch.inf)


def knowledge_gradient(process: GaussianProcess, point: Tensor, points: Tensor) -> Tensor:
    """Return how much higher the best posterior mean is expected to be after one observation.

    ``E[max_x' mean_{n+1}(x')] - max_x' mean_n(x')``, x' among finitely many points, exactly.

    Paper: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811, section 4.2.

    Args:
        process: Gaussian process after n observations.
        point: Point (d,) that is observed next, with the noise of the others.
        points: Points (m, d) among which the best one is chosen.

    Returns:
        A scalar.

    Example:
        >>> x = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
        >>> y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)
        >>> process = GaussianProcess(x, y, lengthscale=0.5, noise=0.01)
        >>> grid = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
        >>> knowledge_gradient(process, grid[7], grid)
        tensor(0.0155, dtype=torch.float64)
    """
    return _log_gain(process, point, points).exp()


def noisy_expected_improvement(process: GaussianProcess, point: Tensor) -> Tensor:
    """Return the knowledge gradient where the best point must be one that was evaluated.

    ``E[max_{i <= n+1} mean_{n+1}(x_i)] - max_{i <= n} mean_n(x_i)``, the new point being the last
    one. Without noise it is the expected improvement. It is not BoTorch's
    ``qNoisyExpectedImprovement``, which improves on the unknown value of the best point.

    Paper: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811, section 5.

    Args:
        process: Gaussian process after n observations.
        point: Point (d,) that is observed next.

    Returns:
        A scalar.

    Example:
        >>> x = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
        >>> y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)
        >>> process = GaussianProcess(x, y, lengthscale=0.5, noise=0.01)
        >>> noisy_expected_improvement(process, torch.tensor([0.7], dtype=torch.float64))
        tensor(0.0002, dtype=torch.float64)
    """
    return log_noisy_expected_improvement(process, point).exp()


def log_noisy_expected_improvement(process: GaussianProcess, point: Tensor) -> Tensor:
    """Return the logarithm of ``noisy_expected_improvement``, a scalar."""
    mean, covariance = process.posterior(torch.cat([process.inputs, point[None]]))
    return log_gain_at_evaluated(mean, covariance, process.noise)


def log_gain_at_evaluated(mean: Tensor, covariance: Tensor, noise: Tensor | float) -> Tensor:
    """Return the logarithm of the tutorial's noisy expected improvement.

    Args:
        mean: Posterior means (..., n + 1) at the evaluated points and, last, the new one.
        covariance: Their covariances (..., n + 1, n + 1).
        noise: Variance of an observation.

    Returns:
        (...,).
    """
    slopes = _slopes(covariance[..., -1], covariance[..., -1, -1], noise)
    gain = log_expected_gain(mean, slopes)
    # the new point, which may have the highest mean, is no choice before it is evaluated
    ahead = mean[..., -1] - mean[..., :-1].amax(-1)
    both = torch.logaddexp(gain, torch.where(ahead > 0, ahead, 1.0).log())
    return torch.where(ahead > 0, both, gain)


def _log_gain(process: GaussianProcess, point: Tensor, points: Tensor) -> Tensor:
    mean, covariance = process.posterior(torch.cat([points, point[None]]))
    slopes = _slopes(covariance[:-1, -1], covariance[-1, -1], process.noise)
    return log_expected_gain(mean[:-1], slopes)


def _slopes(covariances: Tensor, variance: Tensor, noise: Tensor | float) -> Tensor:
    """Return by how much the means move per standard deviation of the observation."""
    total = (variance.clamp(min=0) + noise)[..., None]
    # what is known exactly tells nothing, whatever rounding has left of the covariances
    spread = torch.where(total > 0, total, 1.0).sqrt()
    return torch.where(total > 0, covariances, 0.0) / spread


def _highest_lines(intercepts: Tensor, slopes: Tensor) -> Tensor:
    """Return the lines that are the highest somewhere, by rising slope; the last one is repeated.

    Shape (..., m), m being the largest number of such lines in a row.
    """
    n = intercepts.shape[-1]
    a = intercepts.detach().cpu().double().numpy().reshape(-1, n)
    b = slopes.detach().cpu().double().numpy().reshape(-1, n)
    rows = [_envelope(*row) for row in zip(a, b, strict=True)]
    longest = max(map(len, rows))
    filled = [row + row[-1:] * (longest - len(row)) for row in rows]
    order = torch.tensor(filled, device=intercepts.device)
    return order.reshape(*intercepts.shape[:-1], longest)


def _envelope(a: np.ndarray, b: np.ndarray) -> list[int]:
    highest: list[int] = []
    starts: list[float] = []
    for line in np.lexsort((a, b)).tolist():
        start = -np.inf
        while highest:
            last = highest[-1]
            if b[line] > b[last]:
                start = float((a[last] - a[line]) / (b[line] - b[last]))
                if start > starts[-1]:
                    break
            # it is below before it would become the highest
            highest.pop()
            starts.pop()
            start = -np.inf
        highest.append(line)
        starts.append(start)
    return highest
