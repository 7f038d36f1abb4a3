"""Noise-contrastive estimation: its value, its minimum and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from framework.energy import NCELoss


def test_density_of_data_and_normalizer_are_stationary() -> None:
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    step = 24 / 24_000
    data, noise = Normal(1.0, 1.0), Normal(0.0, 2.0)
    theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss = NCELoss().double()
    with torch.no_grad():
        loss.log_z.fill_(math.log(math.sqrt(2 * math.pi)))
    r = -(grid - theta).square() / 2 - noise.log_prob(grid)
    for_data, for_noise = loss.parts(r, r)
    expected = (for_data * data.log_prob(grid).exp() + for_noise * noise.log_prob(grid).exp()).sum()
    (expected * step).backward()
    assert theta.grad is not None
    assert loss.log_z.grad is not None
    assert abs(float(theta.grad)) < 1e-9
    assert abs(float(loss.log_z.grad)) < 1e-9


@pytest.mark.parametrize("draws", [1, 3])
def test_it_is_cross_entropy_of_data_against_noise(draws: int) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(4, generator=generator, dtype=torch.float64)
    noise = torch.randn(4, draws, generator=generator, dtype=torch.float64)
    found = NCELoss(learn_log_z=False).double()(data, noise)
    # the odds of data before anything is seen are 1 to k
    logits = torch.cat([data, noise.flatten()]) - math.log(draws)
    label = torch.cat([torch.ones(4), torch.zeros(4 * draws)]).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="sum")
    torch.testing.assert_close(found, wanted / 4)
    rows = NCELoss(learn_log_z=False).double().per_sample(data, noise)
    torch.testing.assert_close(rows.mean(), found)


def test_large_ratios_stay_finite() -> None:
    r = torch.tensor([300.0, -300.0], requires_grad=True)
    value = NCELoss()(r, r)
    value.backward()
    assert torch.isfinite(value)
    assert r.grad is not None
    assert torch.isfinite(r.grad).all()


def test_the_normalizer_is_learned_or_not_there() -> None:
    assert [name for name, _ in NCELoss().named_parameters()] == ["log_z"]
    assert not list(NCELoss(learn_log_z=False).parameters())
