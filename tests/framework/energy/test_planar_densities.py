"""Densities in the plane: their logarithms are those of what they draw."""

from __future__ import annotations

import pytest
import torch

from framework.energy import PLANAR
from framework.energy.normalizer import grid, log_normalizer_on_grid


@pytest.mark.parametrize("name", list(PLANAR))
def test_the_density_has_mass_1_and_is_that_of_the_draws(name: str) -> None:
    density = PLANAR[name]
    corner = torch.full((2,), density.extent, dtype=torch.float64)
    points, log_cell = grid(-corner, corner, size=400)
    log_density = density.log_prob(points)
    assert float(log_normalizer_on_grid(log_density, log_cell)) == pytest.approx(0, abs=1e-3)

    drawn = density.sample(20_000, torch.Generator().manual_seed(0))
    assert float(drawn.abs().max()) < density.extent
    assert density.log_prob(drawn).isfinite().all()
    # how often each of 16 x 16 squares is drawn, against its mass
    mass = (log_density + log_cell).exp().view(16, 25, 16, 25).sum((1, 3))
    cell = ((drawn + density.extent) / (2 * density.extent) * 16).long()
    counts = torch.zeros(16, 16, dtype=torch.float64)
    counts.index_put_((cell[:, 0], cell[:, 1]), torch.ones(20_000).double(), accumulate=True)
    error = (counts / 20_000 - mass) / (mass / 20_000).sqrt().clamp(min=1e-4)
    assert float(error.abs().max()) < 5  # standard deviations


@pytest.mark.parametrize("name", list(PLANAR))
def test_draws_depend_on_the_generator_alone(name: str) -> None:
    first, again = (PLANAR[name].sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
