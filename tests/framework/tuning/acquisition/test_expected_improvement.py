import math

import pytest
import torch
from botorch.acquisition.analytic import ExpectedImprovement, LogExpectedImprovement
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from framework.tuning.acquisition import (
    GaussianProcess,
    expected_improvement,
    log_expected_improvement,
)
from framework.tuning.acquisition.expected_improvement import log_h
from tests.helpers.botorch_models import botorch_model


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_worked_values():
    found = expected_improvement(numbers(1.0, 0.3), numbers(0.5), 0.8)
    assert found.tolist() == pytest.approx([0.315219, 0.041658], abs=1e-6)
    certain = expected_improvement(numbers(1.0, 0.3, 0.8), numbers(0.0), 0.8)
    assert certain.tolist() == pytest.approx([0.2, 0.0, 0.0], abs=1e-12)
    nearly = expected_improvement(numbers(1.0), numbers(1e-9), 0.8)
    assert nearly.item() == pytest.approx(0.2, abs=1e-12)
    log_value = log_expected_improvement(numbers(-1.7), numbers(0.5), 0.8)
    assert log_value.item() == pytest.approx(-17.437448, abs=1e-6)


def test_equals_the_tutorials_form():
    gain, s = torch.linspace(-3, 3, 25, dtype=torch.float64), 0.7
    z = -gain.abs() / s
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    tutorial = gain.clamp(min=0) + s * density - gain.abs() * torch.special.ndtr(z)
    torch.testing.assert_close(expected_improvement(gain, numbers(s), 0.0), tutorial)


@given(st.floats(-5, 5), st.floats(0.05, 3))
def test_is_the_logarithm_near_the_best_value(gain, s):
    value = expected_improvement(numbers(gain), numbers(s), 0.0)
    log_value = log_expected_improvement(numbers(gain), numbers(s), 0.0)
    if value > 1e-6:
        assert log_value.item() == pytest.approx(value.log().item(), abs=1e-9)


# by mpmath with 60 digits: log(phi(z) + z Phi(z))
TAIL = {
    -1.0: -2.4851210257126413,
    -5.0: -16.744301162660990,
    -29.9: -454.72299811949627,
    -30.1: -460.73628739874304,
    -1e3: -500014.73445209116,
    -1e8: -5000000000000037.8,
}


def test_the_tail_loses_no_digits():
    found = log_h(numbers(*TAIL))
    assert found.tolist() == pytest.approx(list(TAIL.values()), rel=1e-9)


def test_the_branches_meet():
    for joint in (-1.0, -30.0):
        left, right = log_h(numbers(joint - 1e-9, joint + 1e-9))
        assert left.item() == pytest.approx(right.item(), abs=1e-7)
    z = numbers(-1e6, -45.0, -31.0, -29.0, -3.0, -1.0, 0.0, 4.0).requires_grad_()
    log_h(z).sum().backward()
    assert z.grad.isfinite().all()
    # the slope is Phi / h, which is |z| far away
    assert z.grad[0].item() == pytest.approx(1e6, rel=1e-6)
    assert gradcheck(log_h, (numbers(-40.0, -29.0, -3.0, 0.5, 3.0).requires_grad_(),))


@pytest.mark.filterwarnings("ignore:ExpectedImprovement has known numerical issues")
def test_agrees_with_botorch():
    inputs = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    targets = numbers(0.1, 0.5, -0.2, 0.9, 0.3, -1.0)
    options = {"lengthscale": 0.3, "variance": 1.0, "noise": 0.01}
    points = torch.linspace(-0.2, 1.2, 30, dtype=torch.float64)[:, None]
    posterior = GaussianProcess(inputs, targets, **options).posterior(points)
    model = botorch_model(inputs, targets, **options)
    pairs = (
        (expected_improvement, ExpectedImprovement),
        (log_expected_improvement, LogExpectedImprovement),
    )
    for best in (0.9, 4.0):
        for ours, theirs in pairs:
            torch.testing.assert_close(
                ours(posterior.mean, posterior.deviation, best),
                theirs(model, best_f=best)(points[:, None]),
                rtol=1e-6,
                atol=1e-12,
            )
