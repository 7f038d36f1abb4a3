"""The benchmark of energies compares what it says it compares."""

from __future__ import annotations

import pytest
import torch

from benchmarks.energies import SETTINGS, contrastive_divergence_step, learned_means, meco_step
from framework.energy import CompositionalMLELoss, EnergyLoss, NCELoss


@pytest.mark.parametrize(("name", "loss"), [("MECO", CompositionalMLELoss()), ("NCE", NCELoss())])
def test_all_means_at_once_take_the_steps_of_the_loss(name: str, loss: EnergyLoss) -> None:
    steps, place = 5, 2
    found = learned_means(name, seeds=1, steps=steps).final[place, 0]
    mean, sd = SETTINGS[place]
    theta = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.SGD([theta, *loss.parameters()], lr=0.05, momentum=0.5, dampening=0.5)
    generator = torch.Generator().manual_seed(0)
    q = torch.distributions.Normal(0.0, float(sd))
    for _ in range(steps):
        x, z = torch.randn(2, len(SETTINGS), 32, generator=generator)[:, place]
        x, z = x + mean, sd * z
        optimizer.zero_grad()
        loss(*(-(part - theta).square() / 2 - q.log_prob(part) for part in (x, z))).backward()
        optimizer.step()
    torch.testing.assert_close((theta.detach() - mean).abs(), found)


def test_steps_can_be_timed() -> None:
    torch.manual_seed(0)
    rows = torch.randn(32, 2)
    for step in (meco_step(rows, (8,)), contrastive_divergence_step(rows, (8,), steps=2)):
        assert step() is None
