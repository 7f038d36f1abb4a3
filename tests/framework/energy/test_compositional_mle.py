"""Likelihood with a moving average of the normalizer: the worked numbers and limits of MECO."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal

from framework.energy import CompositionalMLELoss
from tests.helpers.ranks import TwoRanks

DATA = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
DRAWN = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
NOISE = Normal(torch.tensor(0.0, dtype=torch.float64), 1.5)
RATIOS = [0.421626, 1.199404, 1.421626, 1.088293]
WEIGHTS = [1.524438, 3.318138, 4.143852, 2.969200]


def ratio(x: Tensor, theta: Tensor, constant: float = 0.0) -> Tensor:
    """Return log p0 - log q of a Gaussian mean model without its normalizer."""
    return constant - (x - theta).square() / 2 - NOISE.log_prob(x)


def mean_loss(loss: CompositionalMLELoss, theta: Tensor, constant: float = 0.0) -> Tensor:
    return loss(ratio(DATA, theta, constant), ratio(DRAWN, theta, constant), NOISE.log_prob(DATA))


def leaf(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def double(**options: Any) -> CompositionalMLELoss:
    return CompositionalMLELoss(**options).double()


def close(found: Any, wanted: Any) -> None:
    found = torch.as_tensor(found, dtype=torch.float64).detach()
    torch.testing.assert_close(
        found, torch.as_tensor(wanted, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_ratios_weights_and_normalizer_of_the_worked_example() -> None:
    found = ratio(DRAWN, torch.tensor(0.5, dtype=torch.float64))
    close(found, RATIOS)
    close(found.exp(), WEIGHTS)
    loss = double(gamma=1.0)
    mean_loss(loss, leaf(0.5))
    close(loss.log_u.exp(), 2.988907)
    close(loss.log_u, 1.094908)


def test_a_step_of_the_worked_example_with_momentum() -> None:
    loss, theta = double(gamma=0.3), leaf(0.5)
    loss.log_u.fill_(math.log(2.0))
    mean_loss(loss, theta).backward()
    close(loss.log_u.exp(), 2.296672)
    assert theta.grad is not None
    close(theta.grad, -1.219159)
    # v = (1 - b) v + b g is torch's momentum with damping
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=1 - 0.9, dampening=1 - 0.9)
    optimizer.state[theta]["momentum_buffer"] = torch.tensor(0.5, dtype=torch.float64)
    optimizer.step()
    close(optimizer.state[theta]["momentum_buffer"], -1.047243)
    close(theta, 0.604724)


def test_gamma_of_1_is_autograd_of_the_estimated_likelihood() -> None:
    theta, other = leaf(0.5), leaf(0.5)
    value = mean_loss(double(gamma=1.0), theta)
    value.backward()
    log_mean = ratio(DRAWN, other).logsumexp(0) - math.log(4)
    wanted = (DATA - other).square().mean() / 2 + log_mean
    wanted.backward()
    assert theta.grad is not None
    assert other.grad is not None
    close(value, 2.553241)
    close(value, wanted)
    close(theta.grad, -1.284202)
    torch.testing.assert_close(theta.grad, other.grad, rtol=1e-12, atol=0)


@settings(max_examples=30)
@given(constant=st.floats(-500, 500), gamma=st.floats(0.01, 1))
def test_a_constant_moves_u_and_nothing_else(constant: float, gamma: float) -> None:
    found = []
    for added in (0.0, constant):
        loss, theta = double(gamma=gamma), leaf(0.5)
        for _ in range(2):
            theta.grad = None
            value = mean_loss(loss, theta, added)
            value.backward()
        found.append((value.detach(), theta.grad, loss.log_u - added))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_noise_from_the_model_has_equal_weights_and_gives_contrastive_divergence() -> None:
    theta = leaf(0.5)
    q = Normal(theta.detach(), 1.0)
    loss = double(gamma=1.0)

    def own(x: Tensor) -> Tensor:
        return -(x - theta).square() / 2 - q.log_prob(x)

    _, noise = loss.parts(own(DATA), own(DRAWN))
    close(loss.log_u.exp(), math.sqrt(2 * math.pi))
    close(loss.log_u, 0.918939)
    close(loss.effective_share, 1.0)
    loss(own(DATA), own(DRAWN)).backward()
    assert theta.grad is not None
    # minus the mean slope of log p0 at data plus that at noise
    torch.testing.assert_close(theta.grad, DRAWN.mean() - DATA.mean())
    assert float(noise.detach().abs().max()) == 0


def quantiles(noise: Normal, rows: int = 100_000) -> Tensor:
    """Return draws that lie as the density does, without chance."""
    return noise.icdf((torch.arange(rows, dtype=torch.float64) + 0.5) / rows)


def test_the_average_normalizer_under_noise_is_that_of_the_model() -> None:
    loss = double(gamma=1.0)
    loss.move(ratio(quantiles(NOISE), torch.tensor(0.5, dtype=torch.float64)))
    assert float(loss.log_u.exp()) == pytest.approx(math.sqrt(2 * math.pi), abs=1e-4)


@pytest.mark.parametrize("theta", [0.0, 0.5, 1.0])
def test_the_weights_of_far_noise_have_the_second_moment_of_theory(theta: float) -> None:
    """Under N(0, 1) the mean of (p0 / q)^2 is 2 pi exp(theta^2): few draws count."""
    q = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    z, loss = quantiles(q), double(gamma=1.0)
    r = -(z - theta).square() / 2 - q.log_prob(z)
    loss.move(r)
    assert float(r.mul(2).exp().mean()) == pytest.approx(2 * math.pi * math.exp(theta**2), rel=0.01)
    assert float(loss.effective_share) == pytest.approx(math.exp(-(theta**2)), rel=0.01)


@pytest.mark.parametrize("sd", [1.0, 1.5, 3.0])
def test_the_population_gradient_is_the_distance_to_the_optimum(sd: float) -> None:
    """Whatever the noise, the Hessian is 1: the gradient at theta is theta - theta*."""
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
    mass = Normal(0.0, sd).log_prob(grid).double().exp()
    mass = mass / mass.sum()
    for theta_value in (0.5, 2.0):
        theta = leaf(theta_value)
        r = -(grid - theta).square() / 2 - Normal(0.0, sd).log_prob(grid).double()
        # draws of the noise as often as its density says: logsumexp with the masses
        ((1.0 - theta).square() / 2 + (r + mass.log()).logsumexp(0)).backward()
        assert theta.grad is not None
        close(theta.grad, theta_value - 1.0)


@settings(max_examples=30)
@given(
    st.lists(st.floats(-80, 80), min_size=1, max_size=8),
    st.floats(0.01, 1),
    st.floats(-200, 200),
)
def test_no_weight_exceeds_the_draws_over_gamma(
    ratios: list[float], gamma: float, old: float
) -> None:
    loss = double(gamma=gamma)
    loss.log_u.fill_(old)
    r = torch.tensor(ratios, dtype=torch.float64)
    loss.eval()
    weight = (r - loss.move(r)).exp()
    assert float(weight.max()) <= len(ratios) / gamma * (1 + 1e-9)


def test_evaluation_leaves_u_alone_and_its_value_is_finite_where_u_is_far() -> None:
    loss = double(gamma=0.1)
    loss.log_u.fill_(-900.0)
    before = loss.log_u.clone()
    loss.eval()
    value = mean_loss(loss, leaf(0.5))
    assert torch.isfinite(value)
    assert torch.equal(loss.log_u, before)


def test_the_share_falls_from_1_to_gamma() -> None:
    loss = double(gamma=0.2, warmup_steps=4)
    shares = []
    for _ in range(6):
        shares.append(float(loss.share))
        loss.move(DRAWN)
    close(shares, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_the_loss_of_rows_has_the_gradient_of_the_mean() -> None:
    theta, other = leaf(0.5), leaf(0.5)
    noise = torch.arange(6, dtype=torch.float64).view(3, 2) / 3
    rows = double(gamma=0.3).per_sample(ratio(DATA, theta), ratio(noise, theta))
    rows.mean().backward()
    double(gamma=0.3)(ratio(DATA, other), ratio(noise, other)).backward()
    assert rows.shape == (3,)
    torch.testing.assert_close(theta.grad, other.grad)


def test_the_penalty_is_that_of_the_ratios() -> None:
    plain = mean_loss(double(), leaf(0.5))
    found = mean_loss(double(energy_penalty=0.1), leaf(0.5))
    theta = torch.tensor(0.5, dtype=torch.float64)
    squares = ratio(DATA, theta).square().mean() + ratio(DRAWN, theta).square().mean()
    close(found - plain, 0.1 * squares)


def test_few_draws_that_count_are_said_once() -> None:
    loss = CompositionalMLELoss()
    r = torch.zeros(100)
    r[0] = 20.0
    with pytest.warns(UserWarning, match=r"1\.0% of the noise counts"):
        loss(torch.zeros(1), r)
    assert float(loss.effective_share) == pytest.approx(0.01, abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(torch.zeros(1), r)


def test_half_precision_is_left_and_u_stays_in_single_precision() -> None:
    loss = CompositionalMLELoss().bfloat16()
    value = loss(torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16))
    assert value.dtype == torch.float32
    assert loss.log_u.dtype == torch.float32


def test_wrong_arguments_are_said() -> None:
    with pytest.raises(ValueError, match=r"gamma must lie in \(0, 1\], got 0"):
        CompositionalMLELoss(gamma=0)
    with pytest.raises(ValueError, match=r"takes log-ratios \(B,\) of data"):
        CompositionalMLELoss()(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(ValueError, match=r"noise of the shape \(2, k\)"):
        CompositionalMLELoss().per_sample(torch.zeros(2), torch.zeros(2))


def part(rank_rows: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, the effective share and W times the gradient's share of this rank."""
    from framework.distributed.collectives import rank, world_size

    own = slice(0, rank_rows[0]) if rank() == 0 else slice(rank_rows[0], sum(rank_rows))
    if world_size() == 1:
        own = slice(0, sum(rank_rows))
    data = torch.linspace(0, 3, sum(rank_rows), dtype=torch.float64)[own]
    drawn = torch.linspace(-2, 2, sum(rank_rows), dtype=torch.float64)[own, None]
    loss, theta = double(gamma=0.3), leaf(0.5)
    loss.log_u.fill_(math.log(2.0))
    loss.per_sample(ratio(data, theta), ratio(drawn, theta)).sum().backward()
    assert theta.grad is not None
    return loss.log_u, loss.effective_share, theta.grad / sum(rank_rows)


@pytest.mark.parametrize("rows", [(3, 4), (7, 0)])
def test_two_ranks_share_u_and_give_the_gradient_of_one(
    two_ranks: TwoRanks, rows: tuple[int, int]
) -> None:
    log_u, share, gradient = part(rows)
    first, second = two_ranks(part, rows)
    for mine in (first, second):
        torch.testing.assert_close(mine[0], log_u)
        torch.testing.assert_close(mine[1], share)
    torch.testing.assert_close(first[2] + second[2], gradient)
