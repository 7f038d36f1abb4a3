"""Noise that data is compared with: densities that can be drawn from and evaluated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Uniform

from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.precision import FullPrecision

REACH = 6.0
"""Standard deviations on either side of a mean that hold all but 2e-9 of a Gaussian."""


class Noise(FullPrecision):
    """Base of densities q on rows of D numbers, fitted to the training rows.

    A subclass has buffers, which ``allocate`` makes, and writes ``_fit``, ``distribution``,
    ``_draw`` and ``box``. It is in checkpoints as fitted. Draws and densities leave autocast, whose
    draws would lie on the few numbers of half precision.
    """

    is_fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("is_fitted", torch.tensor(False))

    def allocate(self, size: int) -> None:
        """Make the buffers of the density of the standard kind.

        Args:
            size: Number D of values in a row.
        """
        raise NotImplementedError(f"{type(self).__name__} allocates nothing.")

    def fit(self, rows: Tensor) -> None:
        """Fit the density to rows of data.

        Args:
            rows: (N, D).

        Raises:
            ValueError: Fewer than two rows, or another D.
        """
        size = self.distribution.event_shape[0]
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != size:
            raise ValueError(
                f"{type(self).__name__} is fitted to two rows of {size} numbers or more, got "
                f"{tuple(rows.shape)}."
            )
        self._fit(rows.detach().double())
        self.is_fitted.fill_(True)

    def _fit(self, rows: Tensor) -> None:
        raise NotImplementedError(f"{type(self).__name__} cannot be fitted.")

    @property
    def distribution(self) -> Distribution:
        """The density as torch knows it, of event shape (D,)."""
        raise NotImplementedError(f"{type(self).__name__} has no distribution.")

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at rows (..., D)."""
        with torch.autocast(x.device.type, enabled=False):
            return self._log_prob(x)

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.distribution.log_prob(x)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, D).

        Args:
            rows: Number of draws.
            generator: Generator on the device of the buffers; default torch's.
        """
        with torch.autocast(self.is_fitted.device.type, enabled=False):
            return self._draw(rows, generator)

    def _draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} cannot be drawn from.")

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper corner, (D,) each, of a box that holds the draws."""
        raise NotImplementedError(f"{type(self).__name__} has no box.")


class NormalNoise(Noise):
    """Gaussian with the mean and the covariance of the training rows.

    Args:
        widening: Factor of the standard deviations: noise that is wider than the data covers a
            model that is, too.
        ridge: Variance that is added in every direction, so that constant columns have a density.

    Raises:
        ValueError: ``widening`` is not positive or ``ridge`` negative.

    Example:
        >>> noise = NormalNoise()
        >>> noise.allocate(2)
        >>> noise.fit(torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
        >>> noise.log_prob(torch.zeros(1, 2)).round(decimals=4)  # 1 / (2 pi / 2)
        tensor([-1.1447])
    """

    mean: Tensor
    scale_tril: Tensor

    def __init__(self, widening: float = 1.0, ridge: float = 1e-6) -> None:
        super().__init__()
        check_positive(widening=widening)
        check_at_least(0, ridge=ridge)
        self.widening = widening
        self.ridge = ridge

    def allocate(self, size: int) -> None:
        """Make a standard Gaussian."""
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale_tril", torch.eye(size))

    def _fit(self, rows: Tensor) -> None:
        centered = rows - rows.mean(0)
        covariance = centered.T @ centered / len(rows) * self.widening**2
        covariance.diagonal().add_(self.ridge)
        self.mean.copy_(rows.mean(0))
        self.scale_tril.copy_(factor(covariance))

    @property
    def distribution(self) -> MultivariateNormal:
        """The density as torch knows it, of event shape (D,)."""
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril, validate_args=False)

    def _draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        return self.mean + standard(rows, self.mean, generator) @ self.scale_tril.T

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the corners that are six standard deviations from the mean."""
        reach = REACH * self.scale_tril.norm(dim=1)
        return self.mean - reach, self.mean + reach


class UniformNoise(Noise):
    """Uniform density on a box around the training rows.

    Args:
        margin: Share of a side by which the box exceeds the rows at either end.

    Raises:
        ValueError: ``margin`` is negative.

    Example:
        >>> noise = UniformNoise(margin=0.5)
        >>> noise.allocate(1)
        >>> noise.fit(torch.tensor([[0.0], [2.0]]))  # from -1 to 3
        >>> noise.log_prob(torch.tensor([[2.5], [3.5]])).exp()
        tensor([0.2500, 0.0000])
    """

    low: Tensor
    high: Tensor

    def __init__(self, margin: float = 0.1) -> None:
        super().__init__()
        check_at_least(0, margin=margin)
        self.margin = margin

    def allocate(self, size: int) -> None:
        """Make the unit cube."""
        self.register_buffer("low", torch.zeros(size))
        self.register_buffer("high", torch.ones(size))

    def _fit(self, rows: Tensor) -> None:
        low, high = rows.amin(0), rows.amax(0)
        if (low == high).any():
            raise ValueError(
                f"UniformNoise has no box: column {int((low == high).int().argmax())} is constant; "
                "leave it out, or take NormalNoise with a ridge."
            )
        side = self.margin * (high - low)
        self.low.copy_(low - side)
        self.high.copy_(high + side)
        # at the upper end itself the density is 0
        self.high.copy_(self.high.nextafter(torch.full_like(self.high, torch.inf)))

    @property
    def distribution(self) -> Independent:
        """The density as torch knows it, of event shape (D,)."""
        return Independent(Uniform(self.low, self.high, validate_args=False), 1)

    def _draw(self, rows: int, generator: torch.Generator | None) -> Tensor:
        shape, like = (rows, len(self.low)), self.low
        unit = torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
        drawn = self.low + (self.high - self.low) * unit
        # rounding may reach the upper end, where the density is 0
        return drawn.minimum(self.high.nextafter(self.low))

    def box(self) -> tuple[Tensor, Tensor]:
        """Return the corners of the box itself."""
        return self.low, self.high


def standard(rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return draws of a standard Gaussian, (rows, D) for ``like`` (..., D)."""
    shape = (rows, like.shape[-1])
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


def factor(covariance: Tensor) -> Tensor:
    """Return the Cholesky factor of a covariance (..., D, D).

    Raises:
        ValueError: It has no inverse.
    """
    found, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():
        raise ValueError(
            "The covariance of the training rows has no inverse, as columns are constant or depend "
            "on one another: set a ridge, such as 0.001 times their variance."
        )
    return found
