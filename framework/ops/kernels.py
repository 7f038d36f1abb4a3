"""Gaussian kernels between the rows of two tensors, and a width for them."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.utilities.precision import at_least_float32


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distances of all rows of ``a`` to all rows of ``b``.

    They are computed about the mean of ``b``, so that a common offset costs no digits.

    Args:
        a: (..., N, D); half precision is computed in float32.
        b: (..., M, D).

    Returns:
        (..., N, M), never negative.

    Example:
        >>> import torch
        >>> squared_distances(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0]]))
        tensor([[9.],
                [1.]])
    """
    a, b = at_least_float32(a), at_least_float32(b)
    if a.shape[-1] == 1:
        return (a - b.transpose(-1, -2)).square()
    with torch.autocast(device_type=a.device.type, enabled=False):
        origin = b.detach().mean(-2, keepdim=True)
        a, b = a - origin, b - origin
        squares = a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]
        return (squares - 2 * (a @ b.transpose(-1, -2))).clamp_min(0)


def log_gaussian_gram(a: Tensor, b: Tensor, sigma: float | Tensor) -> Tensor:
    r"""Return :math:`-\|a_i - b_j\|^2 / (2 \sigma^2)`, the logarithm of ``gaussian_gram``.

    Args:
        a: (N, D); half precision is computed in float32.
        b: (M, D).
        sigma: Width of the kernel, above 0.

    Returns:
        (N, M), finite also where the kernel itself underflows.
    """
    # in units of sigma, as the squares of very small or large numbers leave float32
    return squared_distances(at_least_float32(a) / sigma, at_least_float32(b) / sigma) / -2


def gaussian_gram(a: Tensor, b: Tensor, sigma: float | Tensor) -> Tensor:
    r"""Return :math:`\exp(-\|a_i - b_j\|^2 / (2 \sigma^2))`.

    Args:
        a: (N, D); half precision is computed in float32.
        b: (M, D).
        sigma: Width of the kernel, above 0.

    Returns:
        (N, M) in [0, 1].

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> gaussian_gram(x, x, sigma=1.0)
        tensor([[1.0000, 0.3679],
                [0.3679, 1.0000]])
    """
    return log_gaussian_gram(a, b, sigma).exp()


def median_heuristic(x: Tensor, max_rows: int = 2048) -> Tensor:
    """Return the median distance between two different rows, a usual width of a kernel.

    Constant for the gradient. Of more than ``max_rows`` rows, that many evenly spaced ones are
    looked at.

    Args:
        x: (N, D).
        max_rows: Largest number of rows compared, which bounds the quadratic memory.

    Returns:
        A scalar; 1 where that median is 0 or there are no two rows.

    Example:
        >>> import torch
        >>> median_heuristic(torch.tensor([[0.0], [1.0], [5.0]]))
        tensor(4.)
    """
    x = at_least_float32(x.detach())
    if len(x) > max_rows:
        x = x[torch.linspace(0, len(x) - 1, max_rows, device=x.device).long()]
    if len(x) < 2:
        return x.new_ones(())
    unit = x.abs().amax()  # the squares of very small or large numbers leave float32
    unit = torch.where(unit > 0, unit, 1.0)
    median = torch.pdist(x / unit).median() * unit
    return torch.where(median > 0, median, 1.0)
