import math

import pytest
import torch

from framework.tuning.acquisition import GaussianProcess, matern52, rbf
from tests.helpers.botorch_models import botorch_model

X = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
Y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)


def test_the_worked_example():
    process = GaussianProcess(X, Y, lengthscale=0.5, noise=0.01)
    mean, covariance = posterior = process.posterior(torch.tensor([[0.2], [0.7]]).double())
    assert mean.tolist() == pytest.approx([0.716261, 0.571589], abs=1e-6)
    assert posterior.deviation.tolist() == pytest.approx([0.119454, 0.204451], abs=1e-6)
    assert covariance[0, 1].item() == pytest.approx(-0.011305, abs=1e-6)
    assert -process.log_marginal_likelihood().item() == pytest.approx(3.731199, abs=1e-6)


@pytest.mark.parametrize("kernel", [rbf, matern52])
@pytest.mark.parametrize("dims", [1, 3])
def test_agrees_with_botorch(kernel, dims):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(12, dims, generator=generator, dtype=torch.float64)
    targets = torch.randn(12, generator=generator, dtype=torch.float64)
    points = torch.rand(5, dims, generator=generator, dtype=torch.float64)
    scales = torch.linspace(0.3, 0.9, dims, dtype=torch.float64)
    options = {"lengthscale": scales, "variance": 1.7, "noise": 0.02, "mean": 0.4, "kernel": kernel}
    process = GaussianProcess(inputs, targets, **options)
    model = botorch_model(inputs, targets, **options)
    theirs = model.posterior(points)
    mean, covariance = process.posterior(points)
    torch.testing.assert_close(mean, theirs.mean.squeeze(-1), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        covariance, theirs.distribution.covariance_matrix, rtol=1e-7, atol=1e-9
    )
    model.train()
    density = model.likelihood(model(inputs)).log_prob(targets)
    torch.testing.assert_close(process.log_marginal_likelihood(), density, rtol=1e-8, atol=1e-8)


def test_without_noise_it_interpolates():
    process = GaussianProcess(X, Y, lengthscale=0.5)
    posterior = process.posterior(X)
    assert posterior.mean.tolist() == pytest.approx(Y.tolist(), abs=1e-12)
    assert posterior.deviation.max() < 1e-7


def test_far_away_the_prior_is_left():
    process = GaussianProcess(X, Y, lengthscale=0.5, variance=2.0, noise=0.01, mean=-1.0)
    mean, covariance = process.posterior(torch.tensor([[50.0]], dtype=torch.float64))
    assert (mean.item(), covariance.item()) == pytest.approx((-1.0, 2.0), abs=1e-12)


def test_one_observation_has_a_known_density():
    process = GaussianProcess(X[:1], Y[:1], variance=0.7, noise=0.3)
    expected = -(0.2**2) / 2 - math.log(2 * math.pi) / 2
    assert process.log_marginal_likelihood().item() == pytest.approx(expected, abs=1e-12)


def test_kernels_have_their_known_values_and_a_slope_at_zero():
    origin = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    there = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    root = math.sqrt(5)
    assert rbf(origin, there).item() == pytest.approx(math.exp(-0.5), abs=1e-12)
    expected = (1 + root + 5 / 3) * math.exp(-root)
    assert matern52(origin, there).item() == pytest.approx(expected, abs=1e-12)
    matern52(origin, torch.zeros(1, 2).double()).sum().backward()
    assert origin.grad.tolist() == [[0.0, 0.0]]


def test_faults_are_named():
    with pytest.raises(ValueError, match=r"targets \(n,\), got \(3, 1\) and \(3, 1\)"):
        GaussianProcess(X, Y[:, None])
    with pytest.raises(ValueError, match="noise must be at least 0"):
        GaussianProcess(X, Y, noise=-1.0)
