"""PowerpropSGD: the worked number, SGD as its limit, and the powers that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.optim import PowerpropSGD
from tests.helpers.weights import assert_equal, give_gradients, network, parameter, take_steps


def test_worked_number():
    w = nn.Parameter(torch.tensor([0.25], dtype=torch.float64))
    w.grad = torch.ones(1, dtype=torch.float64)
    PowerpropSGD([w], lr=0.01, alpha=2.0).step()
    # the preconditioner 4 |w| is 1 there
    assert w.item() == pytest.approx(0.24, abs=1e-15)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_power_1_is_sgd_bit_for_bit(options):
    own, theirs = network(), network()
    take_steps(PowerpropSGD(own, lr=0.1, alpha=1.0, **options), 0, 10)
    take_steps(torch.optim.SGD(theirs, lr=0.1, **options), 0, 10)
    assert_equal(own, theirs)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_exact_steps_are_sgd_on_the_powers(momentum):
    alpha = 1.7
    own = network(dtype=torch.float64)
    phis = [parameter(p.sign() * p.abs() ** (1 / alpha)) for p in own]
    ours = PowerpropSGD(own, lr=0.01, alpha=alpha, momentum=momentum, exact=True)
    sgd = torch.optim.SGD(phis, lr=0.01, momentum=momentum)
    for step in range(10):
        give_gradients(own, step)
        sgd.zero_grad()
        weights = [phi * phi.abs() ** (alpha - 1) for phi in phis]
        sum((w * p.grad).sum() for w, p in zip(weights, own, strict=True)).backward()
        sgd.step()
        ours.step()
    for phi, p in zip(phis, own, strict=True):
        torch.testing.assert_close(phi * phi.abs() ** (alpha - 1), p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 4.0])
def test_both_ways_have_one_flow(alpha):
    flows = []
    for exact in (False, True):
        w = nn.Parameter(torch.tensor([0.7, -1.2, 0.3], dtype=torch.float64))
        optimizer = PowerpropSGD([w], lr=1e-4, alpha=alpha, exact=exact)
        for _ in range(200):
            w.grad = w.detach() - 1
            optimizer.step()
        flows.append(w.detach())
    assert not torch.allclose(flows[0][0], torch.tensor(0.7, dtype=torch.float64), atol=5e-3)
    torch.testing.assert_close(*flows, rtol=1e-3, atol=0)


@pytest.mark.parametrize("exact", [False, True])
def test_a_weight_of_0_stays(exact):
    w = nn.Parameter(torch.tensor([0.0, 1.0]))
    w.grad = torch.ones(2)
    PowerpropSGD([w], lr=0.1, exact=exact).step()
    assert w[0].item() == 0
    assert w[1].item() < 1


def test_without_momentum_there_is_no_state():
    own = network()
    optimizer = PowerpropSGD(own)
    take_steps(optimizer, 0, 2)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.5}, "alpha must be at least 1, got 0.5"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PowerpropSGD(network(), **options)
