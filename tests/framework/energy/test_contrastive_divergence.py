"""Langevin chains and the gradient that their ends give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.energy import ContrastiveDivergenceLoss, langevin


def energy(x: Tensor) -> Tensor:
    return (x - 1).square().sum(1) / 2


def test_without_noise_a_chain_descends() -> None:
    # each step of s takes the share s of the way to the minimum at 1
    found = langevin(energy, torch.tensor([[5.0, 1.0]]), torch.zeros(1, 3, 2), step_size=0.25)
    torch.testing.assert_close(found, torch.tensor([[1 + 4 * 0.75**3, 1.0]]))
    assert not found.requires_grad


def test_a_long_chain_has_the_moments_of_the_density() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 300, 1, generator=generator)
    found = langevin(energy, torch.zeros(4000, 1), noise, step_size=0.02)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.05)
    # of these steps the variance is 1 / (1 - s / 2)
    assert float(found.var()) == pytest.approx(1 / 0.99, abs=0.06)


def test_the_gradient_is_that_of_data_less_that_of_the_ends() -> None:
    theta = torch.tensor(0.5, requires_grad=True)
    data, ends = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.0, 1.0, 2.0])
    loss = ContrastiveDivergenceLoss()
    value = loss(-(data - theta).square() / 2, -(ends - theta).square() / 2)
    value.backward()
    torch.testing.assert_close(value.detach(), (data - 0.5).square().mean() / 2)
    torch.testing.assert_close(theta.grad, ends.mean() - data.mean())


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        ContrastiveDivergenceLoss(steps=0)
