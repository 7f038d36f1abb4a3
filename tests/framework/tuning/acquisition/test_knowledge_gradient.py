import math

import pytest
import torch
from botorch.acquisition import qKnowledgeGradient
from botorch.sampling import SobolQMCNormalSampler
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from framework.tuning.acquisition import (
    GaussianProcess,
    expected_improvement,
    knowledge_gradient,
    log_expected_gain,
    log_noisy_expected_improvement,
    noisy_expected_improvement,
)
from framework.tuning.acquisition.expected_improvement import log_h
from framework.tuning.acquisition.knowledge_gradient import log_gain_at_evaluated
from tests.helpers.botorch_models import botorch_model

X = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
Y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)
GRID = torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]
OPTIONS = {"lengthscale": 0.5, "variance": 1.0, "noise": 0.01}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture
def process():
    return GaussianProcess(X, Y, **OPTIONS)


def test_the_worked_values(process):
    values = [knowledge_gradient(process, GRID[i], GRID).item() for i in (2, 7)]
    assert values == pytest.approx([0.007468, 0.015535], abs=1e-6)
    assert noisy_expected_improvement(process, numbers(0.7)).item() == pytest.approx(
        0.000180, abs=1e-6
    )
    assert noisy_expected_improvement(process, numbers(0.2)).item() == pytest.approx(
        1.04e-8, rel=5e-3
    )
    # what expected improvement over the best noisy value says instead
    posterior = process.posterior(numbers(0.7, 0.2)[:, None])
    plugged = expected_improvement(posterior.mean, posterior.deviation, Y.max())
    assert plugged.tolist() == pytest.approx([0.001339, 0.000350], abs=1e-6)


def test_agrees_with_botorchs_fantasies_on_a_grid(process):
    model = botorch_model(X, Y, **OPTIONS)
    sampler = SobolQMCNormalSampler(torch.Size([4096]), seed=0)
    for i in (2, 7):
        fantasies = model.fantasize(GRID[i][None], sampler=sampler)
        means = fantasies.posterior(GRID).mean.squeeze(-1).detach()
        gain = means.amax(-1).mean() - model.posterior(GRID).mean.max()
        exact = knowledge_gradient(process, GRID[i], GRID)
        assert exact.item() == pytest.approx(gain.item(), rel=2e-3)


def test_agrees_with_botorchs_knowledge_gradient_on_the_interval(process):
    model = botorch_model(X, Y, **OPTIONS)
    fine = torch.linspace(0, 1, 81, dtype=torch.float64)[:, None]
    best = process.posterior(fine).mean.max()
    sampler = SobolQMCNormalSampler(torch.Size([128]), seed=0)
    theirs = qKnowledgeGradient(model, num_fantasies=128, sampler=sampler, current_value=best)
    for place in (0.2, 0.7):
        x = numbers(place)[None]
        # the best point of every fantasy, on the grid
        means = model.fantasize(x, sampler=sampler).posterior(fine).mean.squeeze(-1)
        chosen = fine[means.argmax(-1)]
        value = theirs(torch.cat([x, chosen])).item()
        assert knowledge_gradient(process, x[0], fine).item() == pytest.approx(value, rel=0.02)


def test_noisy_improvement_is_expected_improvement_without_noise():
    process = GaussianProcess(X, Y, lengthscale=0.5)
    for place in (0.1, 0.3, 0.55, 0.9, 3.0):
        point = numbers(place)
        mean, covariance = process.posterior(point[None])
        expected = expected_improvement(mean, covariance.diagonal().sqrt(), Y.max())
        found = noisy_expected_improvement(process, point)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-12)


def test_noisy_improvement_counts_a_mean_above_all_evaluated_ones(process):
    # the posterior mean at 0.43 is above those at the evaluated points
    mean, covariance = process.posterior(torch.cat([X, numbers(0.43)[None]]))
    assert mean[-1] > mean[:-1].max()
    slopes = covariance[-1] / (covariance[-1, -1] + 0.01).sqrt()
    draws = torch.special.ndtri((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    later = (mean + slopes * draws[:, None]).amax(1).mean()
    found = noisy_expected_improvement(process, numbers(0.43))
    assert found.item() == pytest.approx((later - mean[:-1].max()).item(), rel=1e-4)


def test_what_tells_nothing_is_worth_nothing():
    exact = GaussianProcess(X, Y, lengthscale=0.5)
    assert knowledge_gradient(exact, X[1], X).item() == pytest.approx(0.0, abs=1e-12)
    drowned = GaussianProcess(X, Y, lengthscale=0.5, noise=1e8)
    assert 0 < knowledge_gradient(drowned, GRID[7], GRID) < 1e-4


def test_what_rounding_leaves_of_a_covariance_tells_nothing():
    covariance = torch.diag(numbers(0.1, 0.2, 0.0))
    covariance[0, 2] = covariance[2, 0] = 1e-17
    assert log_gain_at_evaluated(numbers(0.3, 0.5, 0.2), covariance, 0.0).item() == -math.inf
    for points in range(2, 22):
        x = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
        exact = GaussianProcess(x, torch.sin(9 * x[:, 0]), lengthscale=1 / points)
        assert all(knowledge_gradient(exact, point, x) < 1e-6 for point in x)


finite = st.floats(-3, 3).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=8))
def test_the_gain_is_that_of_a_fine_sum(lines):
    a, b = numbers(*(line[0] for line in lines)), numbers(*(line[1] for line in lines))
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    highest = (a + b * z[:, None]).amax(1)
    direct = torch.trapezoid((highest - a.max()) * density, z)
    gain = log_expected_gain(a, b).exp()
    assert gain.item() == pytest.approx(direct.item(), abs=2e-6)


@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=6), st.randoms())
def test_order_and_repetition_of_lines_do_not_matter(lines, random):
    again = [*lines, lines[0]]
    random.shuffle(again)
    values = [log_expected_gain(*numbers(*found).unbind(1)).exp() for found in (lines, again)]
    assert values[0].item() == pytest.approx(values[1].item(), abs=1e-12)


def test_known_gains_and_rows():
    # two lines that cross at z = 1, and two of which one is always higher
    rows = numbers(0.0, 1.0), numbers(0.0, -1.0)
    a = torch.stack([rows[1].flip(0), rows[0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    gains = log_expected_gain(a, b)
    assert gains[0].item() == pytest.approx(log_h(numbers(-1.0)).item(), abs=1e-12)
    assert gains[1].item() == -math.inf
    assert log_expected_gain(numbers(1.0), numbers(2.0)).item() == -math.inf
    # far too small for a difference of float64
    assert log_expected_gain(numbers(0.0, -60.0), numbers(0.0, 1.0)).item() < -1800


def test_the_gain_has_its_gradient():
    a = numbers(0.3, 0.1, -0.4, 0.2).requires_grad_()
    b = numbers(-1.0, 0.2, 1.5, -0.1).requires_grad_()
    assert gradcheck(log_expected_gain, (a, b))
    point = numbers(0.63).requires_grad_()
    process = GaussianProcess(X, Y, **OPTIONS)
    assert gradcheck(lambda x: log_noisy_expected_improvement(process, x), (point,))
