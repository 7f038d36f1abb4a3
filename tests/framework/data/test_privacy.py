import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.data.privacy import (
    MeanRelease,
    Sensitivity,
    project_to_simplex,
    proportion_sensitivity,
    response_sensitivity,
)


def norms(difference):
    return float(difference.abs().sum()), float(difference.square().sum().sqrt())


@pytest.mark.parametrize(("bag_size", "outputs"), [(1, 1), (4, 1), (3, 2)])
def test_no_response_moves_a_mean_further_than_the_sensitivity(bag_size, outputs):
    clip = 1.5
    corners = torch.tensor(list(product([-clip, 0.3, clip], repeat=outputs)))
    others = torch.zeros(bag_size - 1, outputs)
    means = [torch.cat([others, corner[None]]).mean(0) for corner in corners]
    moves = [norms(a - b) for a in means for b in means]
    largest = max(m[0] for m in moves), max(m[1] for m in moves)
    assert response_sensitivity(bag_size, clip, outputs) == pytest.approx(largest)


@pytest.mark.parametrize("bag_size", [1, 2, 5])
def test_no_label_moves_proportions_further_than_the_sensitivity(bag_size):
    labels = torch.arange(bag_size) % 3
    bags = [torch.cat([labels[1:], torch.tensor([c])]) for c in range(3)]
    shares = [torch.bincount(bag, minlength=3) / bag_size for bag in bags]
    moves = [norms(a - b) for a in shares for b in shares]
    largest = max(m[0] for m in moves), max(m[1] for m in moves)
    assert proportion_sensitivity(bag_size) == pytest.approx(largest)


def draws(release, count=200_000):
    std = torch.full((count,), release.noise_std(Sensitivity(0.4, 0.3)), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = release.add_noise(torch.zeros(count, dtype=torch.float64), std, generator)
    return noise, float(std[0])


def test_laplace_noise_is_private():
    noise, std = draws(MeanRelease(epsilon=0.5))
    # 2 (0.4 / 0.5)^2: the scale is the L1 sensitivity over epsilon
    assert std**2 == pytest.approx(1.28)
    assert float(noise.std()) == pytest.approx(std, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    # its tails are those of exp(-|x| / scale), which bound the ratio of densities by exp(epsilon)
    for x in (0.4, 1.2, 2.4):
        assert float((noise.abs() > x).double().mean()) == pytest.approx(
            math.exp(-x / 0.8), rel=0.05
        )


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (4.0, 1e-3), (1e-3, 0.5)])
def test_gaussian_noise_is_private_and_no_larger_than_needed(epsilon, delta):
    std = MeanRelease(epsilon, "gaussian", delta).noise_std(Sensitivity(9.0, 0.3))
    # delta is the mass by which one response's density exceeds exp(epsilon) times the other's
    x = torch.linspace(-12 * std - 1, 12 * std + 1, 2_000_001, dtype=torch.float64)

    def density(mean):
        return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    excess = (density(0.3) - math.exp(epsilon) * density(0.0)).clamp(min=0)
    assert float(torch.trapezoid(excess, x)) == pytest.approx(delta, rel=1e-3)


def test_gaussian_noise_has_its_deviation():
    noise, std = draws(MeanRelease(1.0, "gaussian", 1e-5))
    assert std == pytest.approx(0.3 * 3.730632, rel=1e-6)
    assert float(noise.std()) == pytest.approx(std, rel=0.02)
    assert float((noise.abs() > 2 * std).double().mean()) == pytest.approx(0.0455, rel=0.05)


def test_large_epsilon_does_not_overflow():
    assert 0 < MeanRelease(2000.0, "gaussian", 1e-6).noise_std(Sensitivity(1, 1)) < 0.05


@pytest.mark.parametrize("release", [MeanRelease(1.0), MeanRelease(1.0, "gaussian", 0.1)])
def test_every_bag_has_noise_of_its_own_scale(release):
    means = torch.zeros(3, 4000)
    std = torch.tensor([0.0, 1.0, 5.0])
    noise = release.add_noise(means, std, torch.Generator().manual_seed(1))
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise.std(1), std, rtol=0.1, atol=0)
    again = release.add_noise(means + 2, std, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again, noise + 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_projection_is_the_nearest_probability_vector(values):
    row = torch.tensor([values], dtype=torch.float64)
    found = project_to_simplex(row)
    assert float(found.sum()) == pytest.approx(1)
    assert found.min() >= 0
    # optimal exactly if no corner of the simplex lies in the direction of what was cut off
    corners = torch.eye(len(values), dtype=torch.float64)
    assert ((corners - found) @ (row - found).T).max() < 1e-9
    torch.testing.assert_close(project_to_simplex(found), found)


def test_projection_by_hand():
    rows = torch.tensor([[0.2, 0.3, 0.5], [1.2, 0.4, -0.3], [-5.0, -1.0, -1.0]])
    expected = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(project_to_simplex(rows), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "epsilon must be positive, got 0"),
        ((math.inf,), "epsilon must be"),
        ((1.0, "uniform"), "mechanism must be one of laplace, gaussian, got 'uniform'"),
        ((1.0, "laplace", 0.1), "delta has no meaning"),
        ((1.0, "gaussian"), r"needs a delta in \(0, 1\), got None"),
        ((1.0, "gaussian", 1.0), r"needs a delta in \(0, 1\), got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeanRelease(*arguments)
