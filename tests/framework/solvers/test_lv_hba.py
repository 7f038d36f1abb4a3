"""LV-HBA on problems whose solutions are known, and what it does in a step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import count, islice

import pytest
import torch
from torch import Tensor, nn

from framework.solvers import (
    LVHBA,
    AffineSet,
    Ball,
    Box,
    Polyhedron,
    flat,
    proximal_lagrangian_value,
)
from tests.helpers.runs import ROOT


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


class LinearlyConstrained:
    """The paper's toy problem, of x = -0.3, y1 = 0.7 and y2 = -0.4 in each of n entries."""

    def __init__(self, n: int, p: float) -> None:
        one = torch.ones(n, dtype=torch.float64)
        self.n = n
        self.solution = torch.cat([-0.3 * one, 0.7 * one, -0.4 * one])
        self.solver = LVHBA(
            lambda x, y: 0.5 * ((x - y[1]).square().sum() + (y[0] - 1).square().sum()),
            lambda x, y: 0.5 * y[0].square().sum() - x @ y[0] + y[1].sum(),
            # of a gradient of length 1
            lambda x, y: ((x.sum() + y[0].sum() + y[1].sum()) / math.sqrt(3 * n))[None],
            x=one.clone(),
            y=(one.clone(), one.clone()),
            project_C=flat(AffineSet(torch.ones(3 * n, dtype=torch.float64))),
            alpha=0.05,
            beta=0.05,
            eta=0.1,
            p=p,
            equality=True,
        )

    def run_to(self, steps: int) -> float:
        """Return the relative error after a number of steps."""
        while self.solver.k < steps:
            self.solver.step()
        found = torch.cat([self.solver.x.detach(), *[y.detach() for y in self.solver.y]])
        return float((found - self.solution).norm() / self.solution.norm())


@pytest.mark.parametrize(
    ("n", "p", "error"),
    [
        (100, 0.3, 4.80e-2),
        pytest.param(1, 0.3, 4.80e-2, marks=pytest.mark.slow),
        pytest.param(1, 0.49, 1.26e-2, marks=pytest.mark.slow),
        pytest.param(100, 0.49, 1.26e-2, marks=pytest.mark.slow),
    ],
)
def test_toy_errors_after_2000_steps(n, p, error):
    toy = LinearlyConstrained(n, p)
    assert toy.run_to(2000) == pytest.approx(error, abs=5e-5)
    # of the constraint that is not divided by the length of its gradient
    multiplier = float(toy.solver.multipliers[0]) / math.sqrt(3 * n)
    assert multiplier == pytest.approx(-1, abs=error)


def written_out(p: float) -> Iterator[tuple[float, ...]]:
    """Yield x, y1, y2, the multiplier and z of the toy problem of n = 1 after each step."""
    x = y1 = y2 = t1 = t2 = 1.0
    multiplier = z = 0.0
    unit = 1 / math.sqrt(3)
    for k in count(1):
        falls = t1 - x + multiplier * unit + t1 - y1, 1 + multiplier * unit + t2 - y2
        rise = (x + t1 + t2) * unit - (multiplier - z)
        t1, t2, multiplier = t1 - 0.1 * falls[0], t2 - 0.1 * falls[1], multiplier + 0.1 * rise
        c = k**p
        d_x = (x - y2) / c - y1 + t1 - multiplier * unit
        d_y1 = (y1 - 1) / c + y1 - x - (y1 - t1)
        d_y2 = (y2 - x) / c + 1 - (y2 - t2)
        x, y1, y2 = x - 0.05 * d_x, y1 - 0.05 * d_y1, y2 - 0.05 * d_y2
        mean = (x + y1 + y2) / 3
        x, y1, y2 = x - mean, y1 - mean, y2 - mean
        z += 0.05 * (multiplier - z)
        yield x, y1, y2, multiplier, z


@pytest.mark.parametrize("p", [0.3, 0.49])
def test_steps_of_the_toy_problem_are_the_papers(p):
    solver = LinearlyConstrained(1, p).solver
    for expected in islice(written_out(p), 200):
        solver.step()
        found = [solver.x, *solver.y, solver.multipliers, solver.z]
        assert [float(v.detach()) for v in found] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "errors"), [(0.49, (1.26e-2, 4.06e-3, 1.85e-3)), (0.3, (4.80e-2, 2.52e-2, 1.59e-2))]
)
def test_toy_errors_after_20000_and_100000_steps(p, errors):
    wanted = (-0.3, 0.7, -0.4)
    for k, (*found, _, _) in enumerate(islice(written_out(p), 100_000), start=1):
        if k in (2000, 20_000, 100_000):
            error = math.dist(found, wanted) / math.hypot(*wanted)
            assert error == pytest.approx(errors[(k >= 20_000) + (k == 100_000)], rel=5e-3)


def test_the_copy_and_the_multipliers_settle_at_the_saddle_point():
    def lower(x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * y**2 - x * y

    def constraints(x: Tensor, y: Tensor) -> Tensor:
        return (y - 1)[None]

    solver = LVHBA(lambda x, y: y**2, lower, constraints, x=number(3.0), y=number(0.0), eta=0.4)
    for _ in range(150):
        solver.lower_step()
    exact = proximal_lagrangian_value(lower, constraints, number(3.0), number(0.0), eta=0.4)
    assert float(solver.theta) == pytest.approx(4 / 3, abs=1e-9)
    assert float(solver.multipliers[0]) == pytest.approx(1 / 3, abs=1e-9)
    # then the step of x, y and z is that of the value's exact gradients
    solver.upper_step()
    assert float(solver.x) == pytest.approx(3 - 0.05 * float(-0.0 - exact.grad_x), abs=1e-9)
    assert float(solver.y) == pytest.approx(-0.05 * (-3.0 - float(exact.grad_y)), abs=1e-9)
    assert float(solver.z[0]) == pytest.approx(0.05 * float(exact.grad_z[0]), abs=1e-9)


def test_one_step_by_hand():
    solver = LVHBA(
        lambda x, y: 2 * x + 5 * y,
        lambda x, y: x * y,
        lambda x, y: (x - 2 * y)[None],
        x=number(1.0),
        y=number(2.0),
        theta=number(3.0),
        multipliers=number(0.5)[None],
        z=number(0.25)[None],
        alpha=0.1,
        beta=0.2,
        eta=0.01,
        gamma1=2.0,
        gamma2=4.0,
        c0=2.0,
        p=0.3,
        mu=1.0,
    )
    solver.step()
    # both with the old copy: x + 0.5 * -2 + (3 - 2) / 2 and 1 - 6 - 0.25 / 4
    theta = 3 - 0.01 * 0.5
    multiplier = 0.5 + 0.01 * (-5 - 0.0625)
    assert float(solver.theta) == pytest.approx(theta, abs=1e-15)
    assert float(solver.multipliers[0]) == pytest.approx(multiplier, abs=1e-15)
    assert float(solver.x) == pytest.approx(1 - 0.1 * (1 + 2 - theta - multiplier), abs=1e-15)
    assert float(solver.y) == pytest.approx(2 - 0.1 * (2.5 + 1 - (2 - theta) / 2), abs=1e-15)
    assert float(solver.z[0]) == pytest.approx(0.25 + 0.2 * (multiplier - 0.25) / 4, abs=1e-15)
    assert solver.k == 1
    assert solver.divisor == pytest.approx(2 * 2**0.3)


def test_multipliers_of_inequalities_stay_between_0_and_r():
    for value, expected in ((-9.0, 0.0), (9.0, 0.02)):
        solver = LVHBA(
            lambda x, y, g: 0 * y,
            lambda x, y, g: 0 * y,
            lambda x, y, g: (g + 0 * y)[None],
            x=number(0.0),
            y=number(0.0),
            r=0.02,
        )
        solver.step(value)
        assert float(solver.multipliers[0]) == expected


def test_without_constraints_it_is_the_moreau_envelope_method():
    """The steps of MEHA on a quadratic, written out."""
    x, y, theta = 0.5, 2.0, 2.0
    solver = LVHBA(
        lambda x, y: (y - 1) ** 2, lambda x, y: 0.5 * (y - x) ** 2, x=number(x), y=number(y)
    )
    for k in range(50):
        solver.step()
        theta -= 0.1 * ((theta - x) + (theta - y))
        c = (k + 1) ** 0.3
        d_x = -(y - x) + (theta - x)
        d_y = 2 * (y - 1) / c + (y - x) - (y - theta)
        x, y = x - 0.05 * d_x, y - 0.05 * d_y
    assert float(solver.x) == pytest.approx(x, abs=1e-12)
    assert float(solver.y) == pytest.approx(y, abs=1e-12)
    assert float(solver.theta) == pytest.approx(theta, abs=1e-12)
    assert solver.multipliers is None


def test_a_step_evaluates_each_function_as_often_as_it_says():
    calls = {"upper": 0, "lower": 0, "constraints": 0}

    def counted(name, function):
        def call(x, y):
            calls[name] += 1
            return function(x, y)

        return call

    solver = LVHBA(
        counted("upper", lambda x, y: y**2),
        counted("lower", lambda x, y: (y - x) ** 2),
        counted("constraints", lambda x, y: (y - 1)[None]),
        x=number(0.0),
        y=number(0.0),
    )
    solver.step()
    solver.step()
    assert calls == {"upper": 2, "lower": 6, "constraints": 4}


def test_a_network_is_trained_in_a_loop_of_ones_own():
    torch.manual_seed(0)
    net, weights = nn.Linear(2, 1), torch.zeros(40)
    inputs = torch.randn(40, 2)
    clean = inputs @ torch.tensor([1.0, -1.0])
    given = torch.where(torch.arange(40) < 16, -clean, clean)

    def lower(x: Tensor, net: nn.Module, rows: Tensor) -> Tensor:
        errors = (net(inputs[rows]).squeeze(1) - given[rows]).square()
        return (torch.sigmoid(x[rows]) * errors).mean()

    def upper(x: Tensor, net: nn.Module, rows: Tensor) -> Tensor:
        return (net(inputs[36:]).squeeze(1) - clean[36:]).square().mean()

    optimizer = torch.optim.SGD(
        [{"params": [weights], "lr": 5.0}, {"params": net.parameters()}], 0.2
    )
    # a lower loss that curved lets y take larger steps than its copy
    solver = LVHBA(upper, lower, x=weights, y=net, optimizer=optimizer, mu=0.4)
    for _ in range(400):
        solver.step(torch.randperm(40)[:20])
    assert float(weights[:16].mean()) < float(weights[16:].mean()) - 0.5
    assert net.weight.tolist()[0] == pytest.approx([1, -1], abs=0.2)
    assert solver.theta is not net


def test_constraints_of_a_batch_leave_other_multipliers_alone():
    bounds = torch.tensor([0.5, 5.0, -1.0], dtype=torch.float64)

    def constraints(x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return y[rows] - bounds[rows], rows

    solver = LVHBA(
        lambda x, y, rows: x**2,
        lambda x, y, rows: 0.5 * (y - x - 1).square().sum(),
        constraints,
        x=number(0.0),
        y=torch.zeros(3, dtype=torch.float64),
        multipliers=torch.full((3,), 0.3, dtype=torch.float64),
        z=torch.full((3,), 0.1, dtype=torch.float64),
        num_constraints=3,
    )
    solver.step(torch.tensor([2, 0]))
    assert float(solver.multipliers[1]) == 0.3
    assert float(solver.z[1]) == 0.1
    # 0.3 + eta * (0 - bound - (0.3 - 0.1))
    assert float(solver.multipliers[0]) == pytest.approx(0.3 + 0.1 * (-0.5 - 0.2))
    assert float(solver.multipliers[2]) == pytest.approx(0.3 + 0.1 * (1.0 - 0.2))


def test_it_continues_from_its_state_with_the_same_bits():
    whole, first = LinearlyConstrained(3, 0.3), LinearlyConstrained(3, 0.3)
    whole.run_to(20)
    first.run_to(11)
    state = first.solver.state_dict()
    resumed = LinearlyConstrained(3, 0.3)
    resumed.solver.load_state_dict(state)
    first.run_to(15)
    resumed.run_to(20)
    end, other = whole.solver.state_dict(), resumed.solver.state_dict()
    assert end["k"] == other["k"] == 20
    for name in ("x", "y", "theta"):
        assert all(map(torch.equal, end[name], other[name]))
    assert torch.equal(end["multipliers"], other["multipliers"])
    assert torch.equal(end["z"], other["z"])
    with pytest.raises(ValueError, match="have the shapes"):
        LinearlyConstrained(4, 0.3).solver.load_state_dict(state)


def test_a_state_is_loaded_onto_the_device_of_the_variables():
    state = LVHBA(None, None, x=number(0.0), y=number(0.0)).state_dict()
    state |= {"multipliers": torch.ones(1), "z": torch.ones(1)}
    x, y = (torch.zeros((), device="meta") for _ in range(2))
    solver = LVHBA(None, None, x=x, y=y)
    solver.load_state_dict(state)
    assert solver.multipliers.device == solver.z.device == y.device


def test_the_released_settings_of_the_toy_problem_are_warned_of():
    """They never divide the constraint by the length of its gradient, and diverge."""
    n = 100
    one = torch.ones(n, dtype=torch.float64)
    solver = LVHBA(
        lambda x, y: 0.5 * ((x - y[1]).square().sum() + (y[0] - 1).square().sum()),
        lambda x, y: 0.5 * y[0].square().sum() - x @ y[0] + y[1].sum(),
        lambda x, y: (x.sum() + y[0].sum() + y[1].sum())[None],
        x=one.clone(),
        y=(one.clone(), one.clone()),
        alpha=0.01,
        eta=0.01,
        gamma1=10.0,
        equality=True,
    )
    message = r"eta=0.01 times the squared norm 200 .* is 2, which must lie below 0.2 "
    with pytest.warns(UserWarning, match=message):
        solver.step()


@pytest.mark.parametrize(("eta", "warns"), [(0.49, False), (0.51, True)])
def test_the_bound_of_the_stability_rule(eta, warns, recwarn):
    # two constraints of the gradients (2, 0) and (0, 1), and 2 min(1 / gamma1, 1 / gamma2) = 2
    solver = LVHBA(
        lambda x, y: x**2,
        lambda x, y: y.sum(),
        lambda x, y: torch.stack([2 * y[0], y[1]]),
        x=number(0.0),
        y=torch.zeros(2, dtype=torch.float64),
        eta=eta,
    )
    solver.step()
    solver.step()
    assert len(recwarn) == warns


def test_a_loss_that_is_nan_ends_the_run_with_a_clear_message():
    solver = LVHBA(lambda x, y: y.log(), lambda x, y: (y - x) ** 2, x=number(0.0), y=number(-1.0))
    with pytest.raises(FloatingPointError, match=r"upper or lower loss became NaN .* at step 0: "):
        solver.step()
    assert float(solver.y) == -1.0
    solver = LVHBA(lambda x, y: y, lambda x, y: (x - 2).log() * y, x=number(0.0), y=number(1.0))
    with pytest.raises(FloatingPointError, match="lower loss at the copy became NaN"):
        solver.step()


def test_a_bound_on_a_network_is_kept():
    torch.manual_seed(0)
    net = nn.Linear(3, 1, bias=False)
    inputs = torch.randn(20, 3)
    solver = LVHBA(
        lambda x, net: (net(inputs) - 5).square().mean(),
        lambda x, net: (net(inputs) - x * inputs.sum(1, keepdim=True)).square().mean(),
        lambda x, net: (net.weight.square().sum() - 0.25)[None],
        x=torch.tensor(1.0),
        y=net,
        project_C=lambda x, net: flat(Ball(0.5))(net),
    )
    for _ in range(200):
        solver.step()
    assert float(net.weight.detach().norm()) == pytest.approx(0.5, abs=1e-5)
    assert float(solver.multipliers[0]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 0.5}, r"p must lie in \[0, 0.5\)"),
        ({"eta": 0.0}, "eta must be"),
        ({"gamma1": -1.0}, "gamma1 must be positive"),
        ({"y": []}, "without a tensor"),
        ({"y": torch.ones(1, requires_grad=True) * 2}, "result of other tensors"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LVHBA(**{"upper": None, "lower": None, "x": number(0.0), "y": number(0.0), **arguments})


def test_constraints_of_a_wrong_shape_are_named():
    options = {"x": number(0.0), "y": number(0.0)}
    solver = LVHBA(lambda x, y: y, lambda x, y: y, lambda x, y: y, **options)
    with pytest.raises(ValueError, match=r"must return a vector \(p,\), got the shape \(\)"):
        solver.step()
    rows = torch.tensor([0])
    solver = LVHBA(lambda x, y: y, lambda x, y: y, lambda x, y: (y[None], rows), **options)
    with pytest.raises(ValueError, match="say num_constraints"):
        solver.step()


def test_the_loop_of_the_documentation_runs():
    page = (ROOT / "docs" / "bilevel.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "docs/bilevel.md", "exec"), {})


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"alpha": 0.1, "eta": 0.1}, None),
        ({"alpha": 0.1, "eta": 0.09}, "0.1"),
        ({"alpha": 0.1, "eta": 0.09, "mu": 0.06}, None),
        ({"alpha": 0.1, "eta": 0.01, "gamma1": math.inf}, None),
        ({"optimizer": {"lr": 0.2}, "eta": 0.1}, "0.2"),
        ({"optimizer": {"lr": 0.1, "momentum": 0.9}, "eta": 0.5}, "1"),
        ({"optimizer": {"lr": 0.1, "momentum": 0.9, "dampening": 0.9}, "eta": 0.1}, None),
    ],
)
def test_a_copy_slower_than_y_is_warned_of(options, step, recwarn):
    x, y = number(0.0), number(1.0)
    if "optimizer" in options:
        options = {**options, "optimizer": torch.optim.SGD([x, y], **options["optimizer"])}
    solver = LVHBA(lambda x, y: x**2, lambda x, y: 0 * y, x=x, y=y, **options)
    solver.step()
    solver.step()
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == (step is not None)
    if step is not None:
        assert messages[0].startswith(f"The step size of y, {step}, is above eta={options['eta']}")


def test_a_copy_slower_than_y_diverges_where_the_lower_loss_is_flat():
    def gap(eta):
        options = {"x": number(0.0), "y": number(1.0), "theta": number(0.9)}
        solver = LVHBA(lambda x, y: x**2, lambda x, y: 0 * y, alpha=0.1, eta=eta, **options)
        for _ in range(60):
            solver.step()
        return float(solver.y - solver.theta)

    with pytest.warns(UserWarning, match="outruns where the lower loss is flat"):
        assert gap(0.05) == pytest.approx(0.1 * (0.95 * 1.1) ** 60, rel=1e-9)
    assert gap(0.15) == pytest.approx(0.1 * (0.85 * 1.1) ** 60, rel=1e-6)


def test_a_quadratic_program_with_a_box_and_an_inequality():
    """The lower solution is the nearest point to x of the triangle y >= 0, y1 + y2 <= 1."""
    wanted = torch.tensor([1.0, 0.5], dtype=torch.float64)
    triangle = [[0.0, 0, 1, 1], [0, 0, -1, 0], [0, 0, 0, -1]]
    solver = LVHBA(
        lambda x, y: 0.5 * (y - wanted).square().sum(),
        lambda x, y: 0.5 * (y - x).square().sum(),
        lambda x, y: ((y.sum() - 1) / math.sqrt(2))[None],
        x=torch.zeros(2, dtype=torch.float64),
        y=torch.zeros(2, dtype=torch.float64),
        project_Y=flat(Box(0.0, 1.0)),
        project_C=flat(Polyhedron(torch.tensor(triangle), torch.tensor([1.0, 0, 0]))),
        p=0.49,
        alpha=0.5,
        eta=0.5,
    )
    for _ in range(300):
        solver.step()
    for found in (solver.x, solver.y, solver.theta):
        assert found.tolist() == pytest.approx([0.75, 0.25], abs=1e-3)
    assert float(solver.y.sum()) <= 1 + 1e-9


def test_steps_need_no_gradients_to_be_on():
    y = number(1.0)
    with torch.no_grad():
        LVHBA(lambda x, y: y, lambda x, y: (y - x) ** 2, x=number(0.0), y=y).step()
    assert float(y) == pytest.approx(1 - 0.05 * (1 + 2 - 0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upper": lambda x, y: y**2}, r"upper must return a scalar tensor, got the shape \(3,\)"),
        ({"lower": lambda x, y: y**2}, r"lower must return a scalar tensor, got the shape \(3,\)"),
        ({"lower": lambda x, y: 1.0}, "lower must return a scalar tensor, got a float"),
        ({"constraints": lambda x, y: [y.sum()]}, r"vector \(p,\), got a list"),
        ({"theta": torch.zeros(1)}, r"theta must have the shapes \[\(3,\)\] of y, got \[\(1,\)\]"),
        ({"multipliers": torch.zeros(2)}, r"multipliers must start as \(3,\), .* got \(2,\)"),
        ({"z": torch.zeros(1)}, r"z must start as \(3,\), .* got \(1,\)"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, r"torch.int64, which has no gradient"),
        ({"x": 0.0}, r"must be a tensor, got the number 0.0"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, r"does not hold a tensor of x, of"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    options = {
        "upper": lambda x, y: y.sum(),
        "lower": lambda x, y: y.square().sum(),
        "constraints": lambda x, y: y - 1,
        "x": torch.zeros(2),
        "y": torch.zeros(3),
    }
    with pytest.raises(ValueError, match=message):
        LVHBA(**{**options, **arguments}).step()
