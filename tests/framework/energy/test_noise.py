"""Noise: draws follow the density that they say they have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from framework.energy import EnergyMLP, MixtureNoise, Noise, NormalNoise, UniformNoise
from framework.energy.normalizer import grid, log_normalizer_by_noise, log_normalizer_on_grid


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    turned = torch.tensor([[1.0, 0.8], [0.0, 0.5]], dtype=torch.float64)
    drawn = torch.randn(400, 2, generator=generator, dtype=torch.float64) @ turned
    drawn[:200] += 4
    return drawn


def fitted(noise: Noise) -> Noise:
    noise.allocate(2)
    noise.double().fit(rows())
    return noise


NOISES = [NormalNoise(), NormalNoise(widening=1.5), MixtureNoise(2), UniformNoise()]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_the_density_has_mass_1_in_its_box_and_the_draws_follow_it(noise: Noise) -> None:
    noise = fitted(noise)
    points, log_cell = grid(*noise.box(), size=200)
    log_density = noise.log_prob(points)
    assert float(log_normalizer_on_grid(log_density, log_cell)) == pytest.approx(0, abs=1e-6)
    drawn = noise.sample(20_000, torch.Generator().manual_seed(1))
    low, high = noise.box()
    assert ((drawn >= low) & (drawn <= high)).all()
    mass = (log_density + log_cell).exp()[:, None]
    mean = (mass * points).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    spread = (mass * (points - mean).square()).sum(0)
    torch.testing.assert_close(drawn.var(0), spread, atol=0, rtol=0.05)


def test_the_gaussian_has_the_moments_of_the_rows() -> None:
    noise = fitted(NormalNoise(widening=2.0, ridge=0.25))
    found = noise.distribution.covariance_matrix  # type: ignore[attr-defined]
    wanted = 4 * rows().T.cov(correction=0) + 0.25 * torch.eye(2)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(noise.mean, rows().mean(0))  # type: ignore[arg-type]


def test_a_mixture_fits_two_groups_better_than_a_gaussian() -> None:
    gaussian, mixture = fitted(NormalNoise()), fitted(MixtureNoise(2))
    gain = mixture.log_prob(rows()).mean() - gaussian.log_prob(rows()).mean()
    assert float(gain) > 0.15


def test_one_component_is_the_gaussian() -> None:
    x = rows()[:7]
    found = fitted(MixtureNoise(1, ridge=0.0)).log_prob(x)
    torch.testing.assert_close(found, fitted(NormalNoise(ridge=0.0)).log_prob(x))


def test_draws_depend_on_the_generator_alone() -> None:
    for noise in map(fitted, (NormalNoise(), MixtureNoise(2), UniformNoise())):
        first, again = (noise.sample(5, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first, again)


def test_a_fit_survives_the_checkpoint_and_half_precision() -> None:
    noise, other = fitted(MixtureNoise(2)), MixtureNoise(2)
    other.allocate(2)
    other.double().load_state_dict(noise.state_dict())
    assert bool(other.is_fitted)
    assert torch.equal(other.log_prob(rows()), noise.log_prob(rows()))
    assert other.half().means.dtype == torch.float64


def test_every_row_and_every_draw_has_a_density() -> None:
    rows = torch.tensor([[1e4], [1e4 + 1]])  # a draw in 2,000 is rounded to the upper end
    for margin in (0.0, 0.1):
        noise = UniformNoise(margin)
        noise.allocate(1)
        noise.fit(rows)
        assert noise.log_prob(rows).isfinite().all()
        drawn = noise.sample(20_000, torch.Generator().manual_seed(0))
        assert noise.log_prob(drawn).isfinite().all()


def test_autocast_changes_neither_draws_nor_densities() -> None:
    for noise in map(fitted, (NormalNoise(), MixtureNoise(2), UniformNoise())):
        noise = noise.float()
        drawn = noise.sample(9, torch.Generator().manual_seed(0))
        log_prob = noise.log_prob(drawn)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(noise.sample(9, torch.Generator().manual_seed(0)), drawn)
            assert torch.equal(noise.log_prob(drawn), log_prob)


def test_what_has_no_density_is_said() -> None:
    constant = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    noise = NormalNoise(ridge=0.0)
    noise.allocate(2)
    with pytest.raises(ValueError, match=r"has no inverse.*set a ridge"):
        noise.fit(constant)
    box = UniformNoise()
    box.allocate(2)
    with pytest.raises(ValueError, match="column 1 is constant"):
        box.fit(constant)
    many = MixtureNoise(4)
    many.allocate(2)
    with pytest.raises(ValueError, match="4 components, more than the 3"):
        many.fit(constant)
    with pytest.raises(ValueError, match=r"two rows of 2 numbers or more, got \(3, 1\)"):
        noise.fit(constant[:, :1])


def test_the_normalizer_by_noise_is_that_of_the_grid() -> None:
    noise = fitted(NormalNoise(widening=1.5))

    def log_ratio(x: Tensor) -> Tensor:  # a Gaussian without its normalizer, 2 pi
        return -(x - 2).square().sum(1) / 2 - noise.log_prob(x)

    found = log_normalizer_by_noise(log_ratio, noise, 50_000, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(math.log(2 * math.pi), abs=0.02)


def test_an_energy_starts_at_0_and_can_leave_it() -> None:
    torch.manual_seed(0)
    net = EnergyMLP(4, (8, 8))
    x = torch.randn(3, 2, 2)
    assert torch.equal(net(x), torch.zeros(3))
    net(x).sum().backward()
    assert net.head.weight.grad is not None
    assert float(net.head.weight.grad.abs().max()) > 0
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).dtype == torch.float32
    for rows in (x, x.bfloat16()):
        assert net.bfloat16()(rows).dtype == torch.float32
    with pytest.raises(ValueError, match="one hidden layer"):
        EnergyMLP(4, ())
