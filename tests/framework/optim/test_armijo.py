"""Armijo backtracking: the condition, its limits and what ranks decide by."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from framework.distributed.collectives import rank
from framework.optim import ArmijoLineSearch
from tests.helpers.weights import save_and_load


class Quadratic:
    """Closure of ``sum(curvature x^2) / 2``, which counts its calls."""

    def __init__(self, x: nn.Parameter, curvature: torch.Tensor, sign: float = 1.0) -> None:
        self.x, self.curvature, self.sign, self.calls, self.values = x, curvature, sign, 0, 0

    def loss(self) -> torch.Tensor:
        self.values += 1
        return self.sign * 0.5 * (self.curvature * self.x.detach().square()).sum()

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        self.x.grad = None
        loss = self.sign * 0.5 * (self.curvature * self.x.square()).sum()
        loss.backward()
        return loss.detach()


def problem(values, curvature, sign=1.0):
    x = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    return x, Quadratic(x, torch.tensor(curvature, dtype=torch.float64), sign)


def test_worked_numbers_of_a_quadratic():
    # f = x^2 / 2 at 3: the step s to 3 (1 - s) is enough where s <= 2 (1 - c)
    x, closure = problem([3.0], [1.0])
    optimizer = ArmijoLineSearch([x], lr=4.0, c=0.1, backtracking=0.5, expansion=2.0)
    assert optimizer.step(closure) == 4.5
    assert (optimizer.last_scale, optimizer.trials) == (0.25, 3)
    assert x.item() == 0.0
    x.data.fill_(3.0)
    optimizer.step(closure)  # 0.5 twice the accepted scale: a step of 2, then one of 1
    assert (optimizer.last_scale, optimizer.trials, x.item()) == (0.25, 2, 0.0)


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_the_step_is_the_first_trial_with_sufficient_decrease(c):
    torch.manual_seed(0)
    for _ in range(20):
        curvature = torch.rand(5, dtype=torch.float64) * 10 + 0.1
        x = nn.Parameter(torch.randn(5, dtype=torch.float64))
        closure = Quadratic(x, curvature)
        optimizer = ArmijoLineSearch([x], lr=1.0, c=c, backtracking=0.9)
        before, origin = closure.loss(), x.detach().clone()
        square = (curvature * origin).square().sum()
        optimizer.step(closure)
        step = optimizer.last_scale
        assert closure.loss() <= before - c * step * square
        if optimizer.trials > 1:
            longer = step / 0.9
            x.data.copy_(origin - longer * curvature * origin)
            assert closure.loss() > before - c * longer * square * (1 - 1e-12)


def test_an_accepted_first_trial_is_gradient_descent():
    torch.manual_seed(0)
    ours, plain = (nn.Parameter(torch.linspace(-1, 2, 5)) for _ in range(2))
    curvature = torch.linspace(0.1, 1.0, 5)
    search = ArmijoLineSearch([ours], lr=0.3, expansion=1.0)
    descent = torch.optim.SGD([plain], lr=0.3)
    for _ in range(4):
        search.step(Quadratic(ours, curvature))
        descent.step(Quadratic(plain, curvature))
        assert search.trials == 1
    assert torch.equal(ours, plain)


def test_groups_keep_the_ratio_of_their_learning_rates():
    x, y = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    optimizer = ArmijoLineSearch([{"params": [x], "lr": 8.0}, {"params": [y], "lr": 2.0}])

    def closure():
        optimizer.zero_grad()
        loss = (x.square() + y.square()).sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (1 - x).item() == pytest.approx(4 * (1 - y).item(), rel=1e-6)


def test_a_cheaper_loss_saves_closures_and_changes_nothing():
    results = []
    for cheap in (False, True):
        x, closure = problem([3.0, -1.0], [1.0, 5.0])
        optimizer = ArmijoLineSearch([x], lr=4.0)
        for _ in range(3):
            optimizer.step(closure, loss=closure.loss if cheap else None)
        results.append(x.detach().clone())
        assert (closure.calls == 3) == cheap
        assert (closure.values > 3) == cheap
    assert torch.equal(*results)


def test_gradients_are_left_as_the_first_call_set_them():
    for cheap in (False, True):
        x, closure = problem([3.0, -1.0], [1.0, 5.0])
        expected = closure.curvature * x.detach()
        ArmijoLineSearch([x], lr=4.0).step(closure, loss=closure.loss if cheap else None)
        assert torch.equal(x.grad, expected)


def test_trials_see_the_random_numbers_of_the_step():
    x, noise = nn.Parameter(torch.tensor([3.0])), []
    optimizer = ArmijoLineSearch([x], lr=4.0, backtracking=0.5)

    def closure():
        optimizer.zero_grad()
        noise.append(torch.rand(1))
        loss = (0.5 * (x + noise[-1]).square()).sum()
        loss.backward()
        return loss

    torch.manual_seed(3)
    optimizer.step(closure)
    after = torch.rand(1)
    torch.manual_seed(3)
    first = torch.rand(1)
    assert len(noise) == 1 + optimizer.trials > 2
    assert all(torch.equal(number, first) for number in noise)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize(
    "options", [{"max_trials": 3}, {"min_scale": 0.9}, {"c": 0.9, "max_trials": 2}]
)
def test_a_failure_leaves_the_point_and_is_told(options):
    x, closure = problem([3.0, -1.0], [1.0, 5.0])
    optimizer = ArmijoLineSearch([x], lr=100.0, backtracking=0.9, **options)
    optimizer.step(closure)
    assert optimizer.failed
    assert optimizer.last_scale == 0
    assert x.tolist() == [3.0, -1.0]
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step(closure)
    assert not optimizer.failed
    assert optimizer.last_scale == 1.0


def test_a_loss_that_is_not_finite_is_a_failure():
    x = nn.Parameter(torch.tensor([1.0]))

    def closure():
        x.grad = torch.ones(1)
        return torch.tensor(math.nan)

    optimizer = ArmijoLineSearch([x])
    optimizer.step(closure)
    assert (optimizer.failed, optimizer.trials, x.item()) == (True, 0, 1.0)


def test_trials_beyond_the_domain_are_shortened():
    x = nn.Parameter(torch.tensor([1.0]))
    optimizer = ArmijoLineSearch([x], lr=3.0, backtracking=0.5)

    def closure():
        optimizer.zero_grad()
        loss = -x.log().sum() + x.sum() * 2  # NaN where x <= 0
        loss.backward()
        return loss

    optimizer.step(closure)
    assert 0 < x.item() < 1


def test_maximize_is_descent_on_the_negative():
    up, rise = problem([3.0, -1.0], [1.0, 5.0], sign=-1.0)
    down, fall = problem([3.0, -1.0], [1.0, 5.0])
    for x, closure, maximize in ((up, rise, True), (down, fall, False)):
        optimizer = ArmijoLineSearch([x], lr=4.0, maximize=maximize)
        for _ in range(3):
            optimizer.step(closure)
    assert torch.equal(up, down)


def test_the_scale_is_in_the_state():
    x, closure = problem([3.0, -1.0], [1.0, 5.0])
    y, other = problem([3.0, -1.0], [1.0, 5.0])
    whole, first = ArmijoLineSearch([x], lr=4.0), ArmijoLineSearch([y], lr=4.0)
    for _ in range(2):
        whole.step(closure)
        first.step(other)
    second = ArmijoLineSearch([y])
    second.load_state_dict(save_and_load(first.state_dict()))
    assert second.last_scale == first.last_scale > 0
    for _ in range(2):
        whole.step(closure)
        second.step(other)
    assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"c": 1.0}, "c must lie in"),
        ({"backtracking": 0.0}, "backtracking must lie in"),
        ({"expansion": 0.5}, "expansion must be"),
        ({"max_trials": 0}, "max_trials must be"),
        ({"min_scale": 0.0}, "min_scale must be"),
        ({"max_scale": 1e-9}, "max_scale must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ArmijoLineSearch([nn.Parameter(torch.ones(1))], **options)


def test_bad_use():
    x, y = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = ArmijoLineSearch([x])
    with pytest.raises(ValueError, match=r"c is one for all groups, got 0\.1 and 0\.5"):
        optimizer.add_param_group({"params": [y], "c": 0.5})
    with pytest.raises(RuntimeError, match="needs a closure"):
        optimizer.step()
    x.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step(lambda: torch.zeros(()))


def unequal_losses() -> tuple[float, int, bool]:
    """Curvatures 1 and 7, of mean 4, on two ranks."""
    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    curvature = 1.0 + 6.0 * rank()

    def closure():
        x.grad = 4.0 * x.detach()  # as DDP leaves it
        return 0.5 * curvature * x.detach().square().sum()

    optimizer = ArmijoLineSearch([x], lr=1.0)
    optimizer.step(closure)
    return x.item(), optimizer.trials, optimizer.failed


def test_ranks_decide_by_the_mean_loss(two_ranks):
    x, closure = problem([1.0], [4.0])
    alone = ArmijoLineSearch([x], lr=1.0)
    alone.step(closure)
    for found in two_ranks(unequal_losses):
        assert found == (x.item(), alone.trials, False)
