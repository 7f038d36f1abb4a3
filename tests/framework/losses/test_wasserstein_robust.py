"""The Wasserstein robust loss: the numbers of linear models, limits, and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from framework.losses import robust_zero_one, wasserstein_robust_loss
from framework.losses.wasserstein_robust import distance_to_errors, linear_weight

THETA = torch.tensor([0.6, 0.8], dtype=torch.float64)
X = torch.tensor([[1.0, 1.0], [0.2, 0.1], [-0.5, 0.2], [2.0, -1.0]], dtype=torch.float64)
SIGN = torch.tensor([1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
LABEL = (SIGN > 0).long()
TABLE = {
    ("l2", 0.5): [0.3, 0.9, 1.0, 1.0],
    ("l2", 1.0): [0.0, 0.8, 1.0, 1.0],
    ("l2", 4.0): [0.0, 0.2, 1.0, 1.0],
    ("l2sq", 0.5): [0.02, 0.98, 1.0, 1.0],
    ("l2sq", 1.0): [0.0, 0.96, 1.0, 1.0],
    ("l2sq", 4.0): [0.0, 0.84, 1.0, 1.0],
}
every_cost = pytest.mark.parametrize("cost", ["l2", "l2sq", "half_l2sq"])


def model(x: Tensor, scale: float = 1.0) -> Tensor:
    """Return logits (0, f) of the linear model, times a number."""
    return nn.functional.pad(scale * x @ THETA[:, None], (1, 0))


def close(value: Tensor, expected: list[float], tolerance: float = 1e-6) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value, wanted, rtol=0, atol=tolerance)


def test_margins_and_the_table_of_both_costs():
    close(X @ THETA, [1.4, 0.2, -0.14, 0.4])
    margin = SIGN * (X @ THETA)
    for (cost, gamma), expected in TABLE.items():
        close(robust_zero_one(margin, gamma, cost), expected)
        for scale in (1.0, 7.0):  # what the norm of theta is does not matter
            phi = wasserstein_robust_loss(
                lambda x, scale=scale: model(x, scale),
                X,
                LABEL,
                gamma,
                inner="closed_form_linear",
                cost=cost,
            )
            close(phi, expected)
    close(robust_zero_one(margin, 2.0, "half_l2sq"), TABLE["l2sq", 1.0])


def test_hats_of_unlabeled_rows():
    unlabeled = torch.tensor([[0.1, 0.1], [-1.0, 0.5], [0.0, 0.3]], dtype=torch.float64)
    margin = unlabeled @ THETA
    close(margin, [0.14, -0.2, 0.24])
    close(robust_zero_one(margin.abs(), 1.0), [0.86, 0.8, 0.76])
    pseudo = model(unlabeled).argmax(1)
    hat = wasserstein_robust_loss(
        model, unlabeled, pseudo, 1.0, inner="closed_form_linear", cost="l2"
    )
    close(hat, [0.86, 0.8, 0.76])


@every_cost
def test_the_limits_in_gamma(cost):
    margin = SIGN * (X @ THETA)
    assert torch.equal(robust_zero_one(margin, 1e12, cost), (margin <= 0).double())
    close(robust_zero_one(margin, 1e-12, cost), [1.0] * 4, 1e-9)
    assert float(robust_zero_one(torch.zeros(()), 1e12, cost)) == 1.0


@every_cost
@given(st.floats(0.1, 10.0), st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_no_point_beats_the_closed_form_and_one_attains_it(cost, gamma, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 3, generator=generator, dtype=torch.float64)
    offset = torch.randn(classes, generator=generator, dtype=torch.float64)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (20,), generator=generator)
    logits = x @ weight.T + offset
    distance = distance_to_errors(logits, label, weight)
    assert torch.equal(distance > 0, logits.argmax(1) == label)
    phi = robust_zero_one(distance, gamma, cost)
    assert (phi >= (logits.argmax(1) != label)).all()
    # the foot of the perpendicular on the nearest boundary, a little further
    rest = logits.gather(1, label[:, None]) - logits
    away = weight[label][:, None] - weight
    length = away.norm(dim=2)
    nearest = (rest / length).nan_to_num(torch.inf).argmin(1)
    rows = torch.arange(20)
    unit = away[rows, nearest] / length[rows, nearest][:, None]
    moved = x - (distance.clamp(min=0) + 1e-7)[:, None] * unit
    wrong = (moved @ weight.T + offset).argmax(1) != label
    assert wrong.all()
    noise = torch.randn(200, 20, 3, generator=generator, dtype=torch.float64)
    step = noise.norm(dim=2)
    price = {"l2": step, "l2sq": step**2, "half_l2sq": step**2 / 2}[cost]
    error = (((x + noise) @ weight.T + offset).argmax(2) != label).double()
    assert (error - gamma * price <= phi + 1e-9).all()


def test_the_weight_is_read_off_any_linear_model_with_its_gradient():
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Linear(4, 3)).double()
    weight = linear_weight(network, torch.zeros(0, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(weight, network[2].weight @ network[1].weight)
    (gradient,) = torch.autograd.grad(weight.square().sum(), network[1].weight)
    torch.testing.assert_close(gradient, 2 * network[2].weight.T @ weight)
    assert network.training


def test_the_gradient_of_the_closed_form_is_orthogonal_to_theta():
    """The margin does not depend on the scale of the weights."""
    torch.manual_seed(0)
    layer = nn.Linear(2, 3, bias=False).double()
    label = torch.tensor([0, 1, 2, 0])

    def value(weight: Tensor) -> Tensor:
        logits = X @ weight.T
        return robust_zero_one(distance_to_errors(logits, label, weight), 0.3, "l2sq")

    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (weight,))
    (gradient,) = torch.autograd.grad(value(weight).sum(), weight)
    assert gradient.abs().max() > 1e-3
    assert abs(float((gradient * weight.detach()).sum())) < 1e-12
    phi = wasserstein_robust_loss(
        layer, X, label, 0.3, inner="closed_form_linear", cost="l2sq"
    ).sum()
    (through_model,) = torch.autograd.grad(phi, layer.weight)
    expected = torch.autograd.grad(value(layer.weight).sum(), layer.weight)[0]
    torch.testing.assert_close(through_model, expected)


@every_cost
def test_classes_of_one_weight_have_no_boundary(cost):
    """A layer of zeros, where many begin, is indifferent, and its slope is that of the margin."""
    layer = nn.Linear(2, 2).double()
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)

    def phi() -> Tensor:
        return wasserstein_robust_loss(layer, X, LABEL, 0.5, inner="closed_form_linear", cost=cost)

    close(phi(), [1.0] * 4)
    phi().sum().backward()
    sizes = torch.cat([p.grad.flatten() for p in layer.parameters()])
    assert sizes.isfinite().all()
    assert sizes.abs().max() < 10
    if cost == "l2":  # down the slope lies the mean of the rows, each with its sign
        mean = (SIGN[:, None] * X).sum(0)
        torch.testing.assert_close(layer.weight.grad, 0.5 * torch.stack([mean, -mean]))
    with torch.no_grad():
        layer.bias[1] = 0.1
    close(phi(), [0.0, 0.0, 0.0, 1.0])  # all inputs are of class 1
    layer.zero_grad()
    phi().sum().backward()
    assert not any(p.grad.any() for p in layer.parameters())


def test_the_ascent_of_a_quadratic_is_exact_with_its_gradient():
    theta = torch.tensor([0.6, -0.3], dtype=torch.float64, requires_grad=True)
    y, gamma = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64), 1.2
    phi = wasserstein_robust_loss(
        lambda x: x @ theta, X, y, gamma, loss=lambda f, y: 0.5 * (f - y).square(), steps=200
    )
    exact = 0.5 * (X @ theta - y).square() * gamma / (gamma - theta @ theta)
    torch.testing.assert_close(phi, exact, rtol=0, atol=1e-9)
    found = torch.autograd.grad(phi.sum(), theta)[0]
    torch.testing.assert_close(found, torch.autograd.grad(exact.sum(), theta)[0])


@pytest.mark.parametrize("cost", ["half_l2sq", "l2sq"])
def test_a_high_price_is_the_first_order_penalty(cost):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, label = X.clone().requires_grad_(), torch.tensor([0, 1, 2, 0])
    loss = nn.functional.cross_entropy(network(x), label, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), x)
    first_order = slope.square().sum(1) / (2 if cost == "half_l2sq" else 4)
    gamma = 1e4
    phi = wasserstein_robust_loss(network, X, label, gamma, cost=cost)
    assert (phi >= loss - 1e-12).all()
    torch.testing.assert_close((phi - loss) * gamma, first_order, rtol=1e-3, atol=0)


def test_batch_norm_stands_still_and_modes_are_restored():
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    network = network.double()
    wasserstein_robust_loss(network, X, LABEL, 1.0, steps=4).sum().backward()
    assert int(network[1].num_batches_tracked) == 1  # of the prediction at the worst inputs
    assert all(part.training for part in network)


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="gamma must be positive"):
        wasserstein_robust_loss(model, X, LABEL, 0.0)
    with pytest.raises(ValueError, match="The closed form is that of the 0-1 loss"):
        wasserstein_robust_loss(
            model, X, LABEL, 1.0, inner="closed_form_linear", loss=nn.functional.cross_entropy
        )
    with pytest.raises(ValueError, match="inner must be one of ascent, closed_form_linear"):
        wasserstein_robust_loss(model, X, LABEL, 1.0, inner="sup")  # type: ignore[arg-type]
