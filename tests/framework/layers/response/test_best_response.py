"""What an affine response should be: the worked problems of which the best one is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from framework.layers import convert_to_response

TARGET = 2.0


def best_scalar_response(h: Tensor) -> Tensor:
    """Minimize (w - a)^2 / 2 + exp(h) w^2 / 2 over w."""
    return TARGET / (1 + h.exp())


def trained_response(sigma: float) -> tuple[float, float]:
    """Train a response layer on the scalar problem around h = 0; return value and slope there."""
    torch.manual_seed(0)
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    conditioning = convert_to_response(layer, 1, gate_scale=0.1)
    # the perturbations of a normal distribution, by quadrature: nothing is left to chance
    points, weights = hermite(24)
    h = sigma * points[:, None]
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=200, tolerance_grad=1e-10, tolerance_change=0
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        with conditioning.at(h):
            w = layer(torch.ones(len(h), 1, dtype=torch.float64))[:, 0]
        per_row = (w - TARGET).square() / 2 + h[:, 0].exp() * w.square() / 2
        value = (weights * per_row).sum()
        value.backward()
        return value

    optimizer.step(loss)
    slope = float((layer.weight_gate * layer.weight_response).detach())
    return float(layer.weight.detach()), slope


def hermite(count: int) -> tuple[Tensor, Tensor]:
    """Return places and weights of expectations under a standard normal distribution."""
    off = torch.arange(1, count, dtype=torch.float64).sqrt()
    places, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return places, vectors[0].square()


@pytest.mark.parametrize(
    ("sigma", "value", "slope"),
    [(0.1, 1.0, -0.498750), (0.5, 0.999847, -0.468862), (1.0, 0.991972, -0.380572)],
)
def test_training_finds_the_best_affine_response(sigma, value, slope) -> None:
    found = trained_response(sigma)
    assert found == pytest.approx((value, slope), abs=1e-5)


def test_the_exact_scalar_response_and_its_slope() -> None:
    h = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    w = best_scalar_response(h)
    assert w.tolist() == pytest.approx([1.462117, 1.0, 0.537883], abs=1e-6)
    (slope,) = torch.autograd.grad(w.sum(), h)
    assert slope[1].item() == pytest.approx(-0.5, abs=1e-12)


def test_the_hyperparameter_moves_to_the_best_for_validation() -> None:
    layer = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    conditioning = convert_to_response(layer, 1, gate_scale=0, centered=True)
    h = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    conditioning.source = lambda: h
    x = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(60):
        # a centered layer that is fitted: base weight and slope of the exact response at h
        p = torch.sigmoid(h.detach())
        with torch.no_grad():
            layer.weight.fill_(TARGET * (1 - p.item()))
            layer.weight_response.fill_(1)
            layer.weight_gate.fill_(-TARGET * (p * (1 - p)).item())
        loss = (layer(x) - 0.5).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, h)
        with torch.no_grad():
            h -= 4 * gradient
    assert h.item() == pytest.approx(math.log(3), abs=1e-5)


X = [[1.0, 2, 0], [0, 1, 1], [2, 0, 1], [1, 1, 1], [0, 2, 3]]
RIDGE = {
    0.0: (1.148936, -0.031915, -0.265957),
    0.1: (1.042432, -0.023388, -0.235216),
    1.0: (0.571794, 0.008176, -0.104752),
}


@pytest.mark.parametrize("decay", RIDGE)
def test_ridge_weights_are_gated_weights_without_decay(decay: float) -> None:
    x = torch.tensor(X, dtype=torch.float64)
    t = torch.tensor([1.0, 0, 2, 1, -1], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    exact = torch.linalg.solve(x.T @ x / 5 + decay * eye, x.T @ t / 5)
    assert exact.tolist() == pytest.approx(RIDGE[decay], abs=1e-6)

    _, s, vt = torch.linalg.svd(x, full_matrices=False)
    unregularized = torch.linalg.solve(x.T @ x, x.T @ t)
    gates = torch.sigmoid((s.square() / 5).log() - math.log(decay)) if decay else torch.ones(3)
    if decay == 1:
        assert gates.tolist() == pytest.approx([0.802490, 0.488860, 0.367311], abs=1e-6)
    # in the basis of singular vectors, a response layer with one gate for each direction
    hidden = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    conditioning = convert_to_response(hidden, 3)
    with torch.no_grad():
        hidden.weight.zero_()
        hidden.weight_response.copy_(vt)
        hidden.weight_gate.copy_(eye)
    with conditioning.at(gates.double()):
        response = vt.T @ hidden(unregularized)
    torch.testing.assert_close(response, exact, atol=1e-12, rtol=0)
