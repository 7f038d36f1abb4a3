import pytest
import torch
from optuna.distributions import FloatDistribution

from framework.tuning.acquisition import (
    GaussianProcess,
    knowledge_gradient,
    log_noisy_expected_improvement,
)
from framework.tuning.botorch_proposal import EvaluatedGain, proposals
from framework.tuning.encoded_space import EncodedSpace
from framework.utilities.randomness import seeded
from tests.helpers.botorch_models import botorch_model

X = torch.tensor([[0.0], [0.4], [1.0]], dtype=torch.float64)
Y = torch.tensor([0.2, 1.0, -0.3], dtype=torch.float64)
OPTIONS = {"lengthscale": 0.5, "variance": 1.0, "noise": 0.01}
GRID = torch.linspace(0, 1, 41, dtype=torch.float64)[:, None]


def exact(process, points):
    return torch.stack([log_noisy_expected_improvement(process, point) for point in points])


def test_the_acquisition_function_is_the_tutorials_noisy_improvement():
    function = EvaluatedGain(botorch_model(X, Y, **OPTIONS), X)
    points = torch.tensor([[0.2], [0.43], [0.7], [0.9]], dtype=torch.float64)
    expected = exact(GaussianProcess(X, Y, **OPTIONS), points)
    torch.testing.assert_close(function(points[:, None]), expected, rtol=1e-6, atol=1e-9)
    assert function(points[2:3, None]).exp().item() == pytest.approx(0.000180, abs=1e-6)


def test_pending_points_count_with_the_values_that_are_expected_there():
    pending = torch.tensor([[0.7], [0.15]], dtype=torch.float64)
    process = GaussianProcess(X, Y, **OPTIONS)
    believed = GaussianProcess(
        torch.cat([X, pending]), torch.cat([Y, process.posterior(pending).mean]), **OPTIONS
    )
    function = EvaluatedGain(botorch_model(X, Y, **OPTIONS), X, pending)
    points = torch.tensor([[0.3], [0.69], [0.9]], dtype=torch.float64)
    found = function(points[:, None])
    torch.testing.assert_close(found, exact(believed, points), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "near"), [("kg", 0.9), ("noisy_ei", 0.999)], ids=["kg", "noisy_ei"]
)
def test_the_proposed_point_is_about_the_best_of_a_grid(name, near, monkeypatch):
    model = botorch_model(X, Y, **OPTIONS)
    monkeypatch.setattr("framework.tuning.botorch_proposal._fitted", lambda *_: model)
    space = EncodedSpace({"x": FloatDistribution(0.0, 1.0)})
    with seeded(0):
        rows = proposals(name, space, X.tolist(), Y.tolist())
    process = GaussianProcess(X, Y, **OPTIONS)

    def worth(point):
        if name == "kg":
            return knowledge_gradient(process, point, GRID)
        return log_noisy_expected_improvement(process, point).exp()

    proposed = worth(torch.tensor(rows[0], dtype=torch.float64))
    assert proposed >= near * max(worth(point) for point in GRID)
