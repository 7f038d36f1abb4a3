"""Densities in the plane that can be drawn from and whose logarithm has a closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

LOG_ROOT = math.log(math.sqrt(2 * math.pi))


def log_normal(x: Tensor, mean: Tensor | float, sd: float) -> Tensor:
    """Return the logarithm of the density of a Gaussian, elementwise."""
    return -((x - mean) / sd).square() / 2 - math.log(sd) - LOG_ROOT


class PlanarDensity(ABC):
    """A density of points (..., 2), of which one in a hundred thousand lies beyond ``extent``."""

    extent = 4.0

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""

    @abstractmethod
    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""


class EightGaussians(PlanarDensity):
    """Eight equal Gaussians on a circle of radius 2, of standard deviation 0.2.

    Example:
        >>> EightGaussians().log_prob(torch.tensor([2.0, 0.0]))  # -log(8 * 2 pi * 0.2 ** 2)
        tensor(-0.6984)
    """

    radius, sd = 2.0, 0.2

    def _means(self, like: Tensor) -> Tensor:
        angle = torch.arange(8, dtype=like.dtype, device=like.device) * (math.pi / 4)
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""
        parts = log_normal(x[..., None, :], self._means(x), self.sd).sum(-1)
        return parts.logsumexp(-1) - math.log(8)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""
        normal = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
        part = torch.randint(8, (rows,), generator=generator)
        return self._means(normal)[part] + self.sd * normal


class Rings(PlanarDensity):
    """Three rings of radius 1, 2 and 3, equally heavy, each of standard deviation 0.1 across."""

    radii, sd = (1.0, 2.0, 3.0), 0.1

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""
        distance = x.norm(dim=-1)
        radii = torch.tensor(self.radii, dtype=x.dtype, device=x.device)
        # a negative radius would be one on the other side
        sides = torch.stack([distance, -distance])[..., None]
        radial = log_normal(sides, radii, self.sd).logsumexp((0, -1)) - math.log(len(radii))
        return radial - distance.log() - math.log(2 * math.pi)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""
        part = torch.randint(len(self.radii), (rows,), generator=generator)
        normal = torch.randn(rows, generator=generator, dtype=torch.float64)
        angle = 2 * math.pi * torch.rand(rows, generator=generator, dtype=torch.float64)
        radius = torch.tensor(self.radii, dtype=torch.float64)[part] + self.sd * normal
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)


class Moons(PlanarDensity):
    """Two half rings of radius 2 that reach into one another, of standard deviation 0.15 across.

    The angle is uniform and the radius Gaussian, unlike scikit-learn's, whose Gaussian noise is of
    the plane and leaves no closed form.
    """

    radius, sd, shift = 2.0, 0.15, (1.0, 0.5)

    def _centers(self, like: Tensor) -> Tensor:
        right, up = self.shift
        return torch.tensor([[-right, -up], [right, up]], dtype=like.dtype, device=like.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""
        offset = x[..., None, :] - self._centers(x)
        distance = offset.norm(dim=-1)
        upward = offset[..., 1] * torch.tensor([1.0, -1.0], dtype=x.dtype, device=x.device) >= 0
        radial = log_normal(distance, self.radius, self.sd) - distance.log() - math.log(math.pi)
        return radial.masked_fill(~upward, -torch.inf).logsumexp(-1) - math.log(2)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""
        part = torch.randint(2, (rows,), generator=generator)
        normal = torch.randn(rows, generator=generator, dtype=torch.float64)
        angle = math.pi * (torch.rand(rows, generator=generator, dtype=torch.float64) + part)
        ring = torch.stack([angle.cos(), angle.sin()], dim=1)
        return self._centers(normal)[part] + (self.radius + self.sd * normal)[:, None] * ring


class Pinwheel(PlanarDensity):
    """Five Gaussian blades that are twisted by an angle that grows with the radius.

    The angle is a function of the distance from the origin, so that the twist changes no area and
    the density has a closed form.
    """

    blades, radius, sds, rate = 5, 2.0, (0.5, 0.12), 0.6

    def _turned(self, x: Tensor, angle: Tensor) -> Tensor:
        across, along = x[..., 0], x[..., 1]
        return torch.stack(
            [
                angle.cos() * across - angle.sin() * along,
                angle.sin() * across + angle.cos() * along,
            ],
            dim=-1,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""
        blade = torch.arange(self.blades, dtype=x.dtype, device=x.device)
        angle = 2 * math.pi * blade / self.blades + self.rate * x.norm(dim=-1)[..., None]
        flat = self._turned(x[..., None, :].expand(*angle.shape, 2), -angle)
        parts = log_normal(flat[..., 0], self.radius, self.sds[0])
        parts = parts + log_normal(flat[..., 1], 0.0, self.sds[1])
        return parts.logsumexp(-1) - math.log(self.blades)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""
        blade = torch.randint(self.blades, (rows,), generator=generator)
        flat = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
        flat = flat * torch.tensor(self.sds, dtype=torch.float64)
        flat[:, 0] += self.radius
        angle = 2 * math.pi * blade / self.blades + self.rate * flat.norm(dim=1)
        return self._turned(flat, angle)


class Checkerboard(PlanarDensity):
    """Uniform on the eight dark squares of a board of four by four, of side 1.5."""

    side = 1.5

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density at points (..., 2)."""
        cell = (x / self.side + 2).floor()
        inside = ((cell >= 0) & (cell < 4)).all(-1) & (cell.sum(-1) % 2 == 0)
        value = -math.log(8 * self.side**2)
        return torch.full_like(x[..., 0], value).masked_fill(~inside, -torch.inf)

    def sample(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws (rows, 2), float64."""
        column = torch.randint(4, (rows,), generator=generator)
        pair = torch.randint(2, (rows,), generator=generator)
        cell = torch.stack([column, 2 * pair + column % 2], dim=1)
        unit = torch.rand(rows, 2, generator=generator, dtype=torch.float64)
        return self.side * (cell - 2 + unit)


PLANAR = {
    "eight_gaussians": EightGaussians(),
    "rings": Rings(),
    "moons": Moons(),
    "pinwheel": Pinwheel(),
    "checkerboard": Checkerboard(),
}
"""Densities in the plane by name."""
