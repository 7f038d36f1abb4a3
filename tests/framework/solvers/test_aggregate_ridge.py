from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

from framework.data.bag_sampling import assign_bags
from framework.data.privacy import MeanRelease
from framework.losses import AggregateResponseLoss
from framework.solvers import (
    AggregateRidge,
    aggregate_risk,
    bag_size_risks,
    optimal_bag_size,
)

X = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
Y = np.array([1.0, 2.0, 4.0, 5.0])
PAIRS = np.array([0, 0, 1, 1])
RHOS = [0.0, 0.03, 0.5, 1.0]


def problem(rows=60, columns=4, bags=15, seed=0):
    """Return X, uneven bags and the matrix H."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((rows, columns))
    bag_of_row = np.r_[np.arange(bags), random.integers(0, bags, rows - bags)]
    same = (bag_of_row[:, None] == bag_of_row).astype(float)
    return inputs, bag_of_row, same / same.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("rho", "theta"), [(0, [3, 0]), (0.5, [1.561644, 1.972603]), (1, [1.5, 2.0])]
)
def test_worked_example(rho, theta):
    for responses in (Y, np.array([1.5, 1.5, 4.5, 4.5])):  # only the means count
        model = AggregateRidge(rho, fit_intercept=False).fit(X, responses, PAIRS)
        assert model.coef_ == pytest.approx(theta, abs=5e-7)
        assert model.intercept_ == 0


@pytest.mark.parametrize("rho", RHOS)
def test_the_formula_of_the_paper(rho):
    inputs, bags, H = problem()
    y = np.random.default_rng(1).standard_normal(len(inputs))
    A = inputs.T @ ((1 - rho) * H + rho * np.eye(len(inputs))) @ inputs
    model = AggregateRidge(rho, fit_intercept=False).fit(inputs, y, bags)
    assert model.coef_ == pytest.approx(np.linalg.solve(A, inputs.T @ H @ y))


@pytest.mark.parametrize("rho", RHOS)
def test_no_step_improves_the_loss(rho):
    inputs, bags, H = problem(seed=2)
    y = H @ (inputs[:, 0] + 3 + np.random.default_rng(1).standard_normal(len(inputs)))
    model = AggregateRidge(rho).fit(inputs, y, bags)
    parameters = torch.tensor([*model.coef_, model.intercept_], requires_grad=True)
    prediction = torch.tensor(np.c_[inputs, np.ones(len(inputs))]) @ parameters
    torch.testing.assert_close(prediction.detach().numpy(), model.predict(inputs))
    loss = AggregateResponseLoss(rho=rho)
    value = loss(prediction, torch.tensor(y), group=torch.tensor(bags))
    (gradient,) = torch.autograd.grad(value, parameters)
    assert gradient.numpy() == pytest.approx(0, abs=1e-12)
    assert value.item() > 1e-3


def test_bags_of_one_row_are_least_squares_for_every_rho():
    inputs, *_ = problem()
    y = np.random.default_rng(1).standard_normal(len(inputs))
    expected = np.linalg.lstsq(inputs, y, rcond=None)[0]
    for rho in RHOS:
        model = AggregateRidge(rho, fit_intercept=False).fit(inputs, y)
        assert model.coef_ == pytest.approx(expected)


def test_fewer_bags_than_columns_give_the_solution_of_least_norm():
    inputs, bags, H = problem(columns=12, bags=5)
    y = np.random.default_rng(1).standard_normal(len(inputs))
    means = np.stack([(H @ inputs)[bags == bag][0] for bag in range(5)])
    responses = np.array([(H @ y)[bags == bag][0] for bag in range(5)])
    model = AggregateRidge(0.0, fit_intercept=False).fit(inputs, y, bags)
    assert model.coef_ == pytest.approx(np.linalg.pinv(means) @ responses)
    assert means @ model.coef_ == pytest.approx(responses)


@parametrize_with_checks([AggregateRidge()])
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("rho", "bags", "message"),
    [
        (-0.1, PAIRS, r"rho must lie in \[0, 1\], got -0.1"),
        (1.1, PAIRS, r"rho must lie in \[0, 1\], got 1.1"),
        (0.5, PAIRS[:3], r"bags must have the shape \(4,\), got \(3,\)"),
    ],
)
def test_bad_arguments(rho, bags, message):
    with pytest.raises(ValueError, match=message):
        AggregateRidge(rho).fit(X, Y, bags)
    with pytest.raises(ValueError, match=message):
        aggregate_risk(X, bags, rho, theta=1.0, sigma=1.0)


# ---- risk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", RHOS)
def test_bias_and_variance_are_those_of_the_formula(rho):
    inputs, bags, H = problem()
    identity, theta, sigma = np.eye(len(inputs)), np.arange(1.0, 5.0), 0.7
    A = np.linalg.inv(inputs.T @ ((1 - rho) * H + rho * identity) @ inputs)
    bias = -rho * A @ inputs.T @ (identity - H) @ inputs @ theta
    variance = sigma**2 * np.trace(A @ inputs.T @ H @ inputs @ A)
    risk = aggregate_risk(inputs, bags, rho, theta, sigma)
    assert risk == pytest.approx((bias @ bias, variance, bias @ bias + variance))
    assert (risk.bias > 1e-6) == (rho > 0)


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0])
def test_risk_is_that_of_many_draws(rho):
    inputs, bags, _ = problem(rows=40, columns=3, bags=9)
    random = np.random.default_rng(3)
    theta, sigma = np.array([1.0, -0.5, 2.0]), 0.8
    noise_of_bag = np.linspace(0, 1, 9)
    model, found = AggregateRidge(rho, fit_intercept=False), []
    for _ in range(1500):
        y = inputs @ theta + sigma * random.standard_normal(40)
        y += (noise_of_bag * random.standard_normal(9))[bags]
        found.append(model.fit(inputs, y, bags).coef_)
    error = np.mean(found, 0) - theta
    risk = aggregate_risk(inputs, bags, rho, theta, sigma, noise_of_bag[bags])
    assert np.var(found, 0).sum() == pytest.approx(risk.variance, rel=0.1)
    assert error @ error == pytest.approx(risk.bias, rel=0.1, abs=4e-3)
    squared = ((np.array(found) - theta) ** 2).sum(1).mean()
    assert squared == pytest.approx(risk.risk, rel=0.1)
    # the noise of the release is a good part of it
    assert aggregate_risk(inputs, bags, rho, theta, sigma).variance < 0.9 * risk.variance


def test_a_norm_stands_for_the_mean_over_directions():
    inputs, bags, _ = problem()
    corners = [aggregate_risk(inputs, bags, 0.3, 2.0 * e, 0.7) for e in np.eye(4)]
    assert aggregate_risk(inputs, bags, 0.3, 2.0, 0.7) == pytest.approx(np.mean(corners, 0))


@pytest.mark.parametrize("size", [2, 5, 12])
def test_larger_rho_trades_variance_for_bias(size):
    inputs, *_ = problem(rows=80)
    bags = assign_bags(80, size).numpy()
    risks = [aggregate_risk(inputs, bags, rho, 1.0, 1.0) for rho in (0.0, 0.01, 0.1, 1.0)]
    for left, right in pairwise(risks):
        assert right.variance < left.variance
        assert right.bias > left.bias + 1e-9


# ---- bag size -----------------------------------------------------------------------------------

GAUSSIAN = np.random.default_rng(0).standard_normal((300, 6))
FACTS = {"sigma": 0.7, "theta": 0.7, "assignments": 2, "bag_sizes": [1, 2, 3, 4, 6, 8, 12]}


def test_without_a_release_single_rows_are_best():
    for rho in (0.0, 0.1):
        risks = bag_size_risks(GAUSSIAN, rho=rho, **FACTS)
        assert optimal_bag_size(GAUSSIAN, rho=rho, **FACTS) == 1
        assert list(risks) == FACTS["bag_sizes"]
        assert all(a.risk < b.risk for a, b in pairwise(risks.values()))


def test_bag_level_risk_under_laplace_noise_is_that_of_gaussian_inputs():
    release, clip, n, d = MeanRelease(2.0), 1.5, 300, 6
    facts = FACTS | {"assignments": 100}
    risks = bag_size_risks(GAUSSIAN, rho=0.0, release=release, clip=clip, **facts)
    for size, risk in risks.items():
        noise = 0.49 * size + 8 * clip**2 / 2.0**2
        # X is one draw, which with few bags the assignments do not quite average over
        assert risk.risk == pytest.approx(d * noise / (n - size * (d + 1)), rel=0.08)
        assert risk.bias == pytest.approx(0, abs=1e-20)
    assert optimal_bag_size(GAUSSIAN, rho=0.0, release=release, clip=clip, **facts) == 1


def test_more_privacy_asks_for_larger_bags():
    found = [
        optimal_bag_size(GAUSSIAN, rho=0.1, release=MeanRelease(epsilon), clip=2.0, **FACTS)
        for epsilon in (10.0, 2.0, 1.4, 1.0)
    ]
    assert found == sorted(found)
    assert found[0] == 1 < found[1] < found[-1]


def test_noise_of_unequal_bags_follows_their_size():
    release, clip = MeanRelease(1.0, "gaussian", 1e-5), 1.0
    risk = bag_size_risks(
        GAUSSIAN[:7], sigma=0.0, theta=0.0, release=release, clip=clip, bag_sizes=[3], assignments=1
    )[3]
    bags = assign_bags(7, 3).numpy()
    assert sorted(np.bincount(bags)) == [3, 4]
    # the standard deviation for an L2 sensitivity of 2 C / k, k = 3 and 4
    std = 3.730632 * 2 / np.bincount(bags)
    assert risk.risk == pytest.approx(
        aggregate_risk(GAUSSIAN[:7], bags, 0.1, 0.0, 0.0, std[bags]).risk, rel=1e-6
    )


def test_bad_bag_sizes():
    with pytest.raises(ValueError, match="release and clip must be given together"):
        bag_size_risks(GAUSSIAN, sigma=1.0, theta=1.0, release=MeanRelease(1.0))
    with pytest.raises(ValueError, match=r"bag_size must lie in 1..300, .* got 301"):
        optimal_bag_size(GAUSSIAN, sigma=1.0, theta=1.0, bag_sizes=[301])
    with pytest.raises(ValueError, match=r"X must have the shape \(n, d\), got \(4,\)"):
        aggregate_risk(Y, PAIRS, 0.1, 1.0, 1.0)
