"""A distribution of torch serves as noise as it is."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import (
    Cauchy,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

from framework.energy import DistributionNoise, NormalNoise
from modules import EnergyModel

LAPLACE = Independent(Laplace(torch.tensor([1.0, -2.0]), 0.5), 1)


def test_density_and_draws_are_those_of_the_distribution() -> None:
    noise = DistributionNoise(LAPLACE)
    x = torch.tensor([[[0.0, 1.0], [2.0, -2.0]]])
    assert torch.equal(noise.log_prob(x), LAPLACE.log_prob(x))
    drawn = noise.sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), LAPLACE.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.std(0), LAPLACE.stddev, atol=0.02, rtol=0)
    assert bool(noise.is_fitted)


def test_draws_depend_on_the_generator_alone_and_touch_no_other() -> None:
    noise, generator = DistributionNoise(LAPLACE), torch.Generator().manual_seed(3)
    before = torch.get_rng_state()
    first, second = noise.sample(5, generator), noise.sample(5, generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    assert torch.equal(noise.sample(5, torch.Generator().manual_seed(3)), first)
    torch.manual_seed(0)
    third = noise.sample(5)
    torch.manual_seed(0)
    assert torch.equal(LAPLACE.sample(torch.Size([5])), third)


def test_a_gaussian_is_that_of_the_fitted_noise() -> None:
    rows = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    fitted = NormalNoise()
    fitted.allocate(2)
    fitted.fit(rows)
    own = DistributionNoise(MultivariateNormal(fitted.mean, scale_tril=fitted.scale_tril))
    torch.testing.assert_close(own.log_prob(rows), fitted.log_prob(rows))
    for mine, theirs in zip(own.box(), fitted.box(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_box_is_asked_for_where_there_are_no_moments() -> None:
    shifted = TransformedDistribution(LAPLACE, [AffineTransform(torch.zeros(2), 2.0, event_dim=1)])
    for kind in (Independent(Cauchy(torch.zeros(2), 1.0), 1), shifted):
        with pytest.raises(ValueError, match="give DistributionNoise the corners"):
            DistributionNoise(kind).box()
    corners = (torch.full((2,), -3.0), torch.full((2,), 3.0))
    assert DistributionNoise(shifted, corners).box() == corners


@pytest.mark.parametrize(
    "kind", [Normal(0.0, 1.0), LogNormal(torch.zeros(3), 1.0)], ids=["number", "batch"]
)
def test_what_draws_no_rows_is_refused(kind: Normal) -> None:
    with pytest.raises(ValueError, match=r"event shape \(D,\) and batch shape \(\), got \(\) and"):
        DistributionNoise(kind)


def test_a_model_takes_it_as_fitted() -> None:
    model = EnergyModel(input_shape=[2], widths=(4,), noise=DistributionNoise(LAPLACE))
    x = torch.zeros(3, 2)
    torch.testing.assert_close(model(x).detach(), -LAPLACE.log_prob(x))
    assert set(model.noise.state_dict()) == {"is_fitted"}
    with pytest.raises(ValueError, match=r"of rows of 2 numbers, and input_shape=\[3\] has 3"):
        EnergyModel(input_shape=[3], noise=DistributionNoise(LAPLACE))
