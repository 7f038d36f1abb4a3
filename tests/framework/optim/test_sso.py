"""SSO: the specification's numbers, what it is in its limits, and the bound."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from framework.optim import SSO, ArmijoLineSearch, StepProblem, TargetClosure
from framework.optim.target_schedules import target_factor
from framework.optim.target_surrogate import TargetSurrogate

X = torch.tensor([[1.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
Y = torch.tensor([1.0, -1.0], dtype=torch.float64)  # labels 1 and 0

EXACT = {
    "lr": 1.0,
    "inner": "lbfgs",
    "inner_steps": 200,
    "inner_kwargs": {"tolerance_change": 0.0},
    "tolerance": 1e-12,
}
"""Options with which the surrogate is minimized to the last digits."""


def logistic(z: torch.Tensor) -> torch.Tensor:
    return nn.functional.softplus(-Y * z).sum()


def example() -> tuple[nn.Parameter, TargetClosure]:
    """The specification's: a logistic loss, summed over two rows, at 0."""
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    return weight, TargetClosure([weight], lambda: X @ weight, logistic)


def small(seed: int = 0, loss=nn.functional.cross_entropy) -> tuple[nn.Module, TargetClosure]:
    """A perceptron on 12 rows and 3 classes."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.randint(3, (12,))
    return model, TargetClosure(model.parameters(), lambda: model(x), lambda z: loss(z, y))


def linear(rows: int = 20, width: int = 5) -> tuple[torch.Tensor, torch.Tensor, nn.Parameter]:
    torch.manual_seed(1)
    x = torch.randn(rows, width, dtype=torch.float64)
    return x, torch.randn(rows, dtype=torch.float64), nn.Parameter(x.new_zeros(width))


# ---- the specification's numbers -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [0.0625, -0.125]), (2, [0.117188, -0.203125]), (3, [0.157227, -0.255859])],
)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_three_inner_steps(steps, expected, reduction):
    weight, closure = example()
    # the penalty of a sum is that of a mean times the two rows
    eta = 0.5 if reduction == "sum" else 0.25
    SSO([weight], eta, lr=0.25, inner_steps=steps, reduction=reduction).step(closure)
    torch.testing.assert_close(weight.data, X.new_tensor(expected), rtol=0, atol=1e-6)


def test_the_gradient_in_target_space():
    weight, closure = example()
    SSO([weight]).step(closure)
    assert closure.targets[0].value.tolist() == [0.0, 0.0]
    assert closure.targets[0].gradient.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("inner", ["gd", "armijo", "lbfgs", "adam"])
def test_every_inner_optimizer_finds_the_minimizer(inner):
    weight, closure = example()
    lr = {"gd": 0.3, "armijo": 10.0, "lbfgs": 1.0, "adam": 0.05}[inner]
    settings = {"inner_steps": 400, "tolerance": 1e-7, "reduction": "sum"}
    SSO([weight], 0.5, lr=lr, inner=inner, **settings).step(closure)
    atol = 1e-4 if inner == "adam" else 1e-6
    torch.testing.assert_close(weight.data, X.new_tensor([0.25, -0.375]), rtol=0, atol=atol)


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_lr", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_one_inner_step_is_a_step_of_sgd(target_lr, weight_decay, maximize):
    (ours, closure), (plain, other) = small(), small()
    settings = {"weight_decay": weight_decay, "maximize": maximize}
    sso = SSO(ours.parameters(), target_lr, lr=0.3, inner_steps=1, **settings)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.3, **settings)
    for _ in range(3):
        assert sso.step(closure) == sgd.step(other)
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-14, atol=1e-14)


def test_the_exact_step_on_a_squared_loss_is_newtons():
    x, y, weight = linear()
    closure = TargetClosure([weight], lambda: x @ weight, lambda z: (z - y).square().mean() / 2)
    SSO([weight], 1.0, **EXACT).step(closure)
    expected = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    torch.testing.assert_close(weight.data, expected, rtol=0, atol=1e-8)


def test_a_small_eta_steps_along_the_gauss_newton_direction():
    x, _, weight = linear()
    weight.data.normal_()
    outputs = lambda: torch.tanh(x @ weight)  # noqa: E731
    closure = TargetClosure([weight], outputs, lambda z: (z - 0.3).pow(4).mean())
    origin, eta, rows = weight.detach().clone(), 1e-5, len(x)
    closure()
    jacobian = torch.autograd.functional.jacobian(lambda w: torch.tanh(x @ w), origin)
    gram = jacobian.T @ jacobian / rows
    direction = torch.linalg.solve(gram, jacobian.T @ closure.targets[0].gradient)
    SSO([weight], eta, **EXACT).step(closure)
    torch.testing.assert_close((origin - weight.data) / eta, direction, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "squared", "cross_entropy"])
def test_the_surrogate_bounds_the_loss_from_above(kind):
    torch.manual_seed(3)
    x, classes = torch.randn(12, 4, dtype=torch.float64), torch.randint(3, (12,))
    loss, eta = {
        "logistic": (lambda z: nn.functional.softplus(z).sum(1).mean(), 4.0),
        "squared": (lambda z: (z - 1).square().sum(1).mean() / 2, 1.0),
        "cross_entropy": (lambda z: nn.functional.cross_entropy(z, classes), 2.0),
    }[kind]
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    closure = TargetClosure([weight], lambda: torch.tanh(x @ weight) * 3, loss)
    value = closure()
    surrogate = TargetSurrogate(closure, [weight], [0.0], 1 / (eta * 12))
    origin, gaps = weight.detach().clone(), []
    with torch.no_grad():
        for draw in range(1000):
            weight.copy_(origin + torch.randn_like(origin) * 10 ** (-3 + 4 * draw / 999))
            gaps.append(float(value + surrogate.value() - closure.evaluate()[0]))
    assert min(gaps) >= -1e-12
    if kind == "squared":  # whose bound is the loss
        assert max(gaps) < 1e-10
    else:
        assert max(gaps) > 0.1


def test_twice_the_step_of_the_bound_is_no_bound():
    x, y, weight = linear()
    closure = TargetClosure([weight], lambda: x @ weight, lambda z: (z - y).square().mean() / 2)
    value = closure()
    surrogate = TargetSurrogate(closure, [weight], [0.0], 1 / (2.0 * len(x)))
    with torch.no_grad():
        weight.normal_()
        assert value + surrogate.value() < closure.evaluate()[0]


def test_the_mean_form_does_not_depend_on_the_number_of_rows():
    results = []
    for copies in (1, 3):
        x, y, weight = linear()
        x, y = x.repeat(copies, 1), y.repeat(copies)
        closure = TargetClosure(
            [weight],
            lambda x=x, w=weight: x @ w,
            lambda z, y=y: (z - y).square().mean(),
        )
        optimizer = SSO([weight], 0.3, lr=0.2, inner_steps=5, schedule="adagrad")
        for _ in range(3):
            optimizer.step(closure)
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_several_outputs_are_one_long_output():
    results = []
    for parts in (1, 2):
        x, y, weight = linear()
        closure = TargetClosure(
            [weight],
            lambda x=x, w=weight, parts=parts: (x @ w).reshape(parts, -1).unbind(),
            lambda z, y=y: (torch.cat(z) - y).square().sum(),
        )
        SSO([weight], 0.2, lr=0.01, inner_steps=5, reduction="sum").step(closure)
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


# ---- the parts -----------------------------------------------------------------------------------


def test_weight_decay_is_a_part_of_the_loss_not_of_every_inner_step():
    x, y, weight = linear()
    closure = TargetClosure([weight], lambda: x @ weight, lambda z: (z - y).square().mean() / 2)
    SSO([weight], 1.0, weight_decay=0.5, **EXACT).step(closure)
    ridge = x.T @ x / len(x) + 0.5 * torch.eye(5, dtype=x.dtype)
    expected = torch.linalg.solve(ridge, x.T @ y / len(x))
    torch.testing.assert_close(weight.data, expected, rtol=0, atol=1e-8)


def test_the_schedules():
    assert [target_factor("constant", t) for t in (0, 9)] == [1, 1]
    assert [target_factor("inverse_sqrt", t) for t in (0, 3, 8)] == [1, 0.5, 1 / 3]
    found = [target_factor("exponential", t, 100) for t in (0, 50, 100)]
    assert found == pytest.approx([1, 0.1, 0.01])
    assert target_factor("adagrad", 7, squares=16.0) == 0.25


@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt", "exponential", "adagrad"])
def test_a_schedule_scales_both_steps(schedule):
    """A step of ``gd`` at the scaled step sizes."""
    weight, closure = example()
    optimizer = SSO([weight], 0.5, lr=0.25, inner_steps=3, schedule=schedule, total_steps=10)
    expected, other = example()
    squares = 0.0
    for t in range(3):
        optimizer.step(closure)
        other()
        squares += 2 * float(other.targets[0].gradient.square().sum())
        factor = target_factor(schedule, t, 10, squares)
        SSO([expected], 0.5 * factor, lr=0.25 * factor, inner_steps=3).step(other)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_a_step_asks_for_one_gradient_of_the_loss():
    weight, _ = example()
    calls = {"outputs": 0, "loss": 0}

    def outputs():
        calls["outputs"] += 1
        return X @ weight

    def loss(z):
        calls["loss"] += 1
        return logistic(z)

    closure = TargetClosure([weight], outputs, loss)
    SSO([weight], inner_steps=7, lr=0.01).step(closure)
    assert calls == {"outputs": 7, "loss": 1}


def test_inner_steps_stop_at_a_small_gradient():
    weight, calls = example()[0], []
    outputs = lambda: calls.append(1) or X @ weight  # noqa: E731
    closure = TargetClosure([weight], outputs, logistic)
    SSO([weight], 0.5, lr=0.3, inner_steps=1000, tolerance=1e-3, reduction="sum").step(closure)
    assert 5 < len(calls) < 50


def test_gradients_are_left_as_the_closure_set_them():
    for inner in ("gd", "armijo", "lbfgs", "adam"):
        weight, closure = example()
        SSO([weight], inner=inner, inner_steps=4).step(closure)
        torch.testing.assert_close(weight.grad, X.T @ X.new_tensor([-0.5, 0.5]))


def test_armijo_inner_steps_lower_the_surrogate_with_any_learning_rate():
    model, closure = small()
    origin = [p.detach().clone() for p in model.parameters()]
    optimizer = SSO(model.parameters(), 2.0, lr=1e3, inner="armijo", inner_steps=20)
    optimizer.step(closure)
    surrogate = TargetSurrogate(closure, list(model.parameters()), [0.0] * 4, 1 / (2.0 * 12))
    assert surrogate.value() < -0.1
    assert any(not torch.equal(p, q) for p, q in zip(origin, model.parameters(), strict=True))


def test_parameters_without_a_gradient_stay():
    weight, closure = example()
    idle = nn.Parameter(torch.ones(2))
    SSO([weight, idle], weight_decay=0.5).step(closure)
    assert idle.tolist() == [1.0, 1.0]


def test_a_parameter_of_the_loss_moves_by_its_gradient_once():
    weight, scale = example()[0], nn.Parameter(torch.ones((), dtype=torch.float64))
    closure = TargetClosure([weight, scale], lambda: X @ weight, lambda z: scale.square() + z.sum())
    SSO([weight, scale], lr=0.1, inner_steps=5).step(closure)
    assert scale.item() == pytest.approx(0.8)


def test_outputs_of_other_inputs_are_refused():
    weight, _ = example()
    rows = iter((2, 1))
    closure = TargetClosure([weight], lambda: (X @ weight)[: next(rows)], lambda z: z.sum())
    with pytest.raises(RuntimeError, match="must be of the same inputs"):
        SSO([weight]).step(closure)


# ---- the contract --------------------------------------------------------------------------------


def test_any_closure_goes_with_a_problem():
    (weight, closure), (other, same) = example(), example()
    SSO([weight]).step(closure)
    SSO([other]).step(lambda: same(), problem=same)
    assert torch.equal(weight, other)
    assert isinstance(same, StepProblem)


def test_what_is_missing_is_named():
    weight, closure = example()
    optimizer = SSO([weight])
    with pytest.raises(RuntimeError, match="needs a closure; fp16's gradient scaler"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="make the closure a TargetClosure"):
        optimizer.step(lambda: closure())


def test_a_gradient_scaler_is_told_why():
    weight, closure = example()
    optimizer = SSO([weight])
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(closure.evaluate()[0]).backward()
    with pytest.raises(RuntimeError, match="needs a closure"):
        scaler.step(optimizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_lr": 0.0}, "target_lr must be positive"),
        ({"lr": -1.0}, "lr must be at least 0"),
        ({"inner": "sgd"}, "inner must be one of gd, armijo, adam, lbfgs"),
        ({"inner_steps": 0}, "inner_steps must be at least 1"),
        ({"inner_kwargs": {"momentun": 0.9}}, "inner_kwargs do not fit inner 'gd': .*momentun"),
        ({"inner_kwargs": {"weight_decay": 0.1}}, "weight_decay is an argument of SSO"),
        ({"inner_kwargs": {"momentum": -1.0}}, "momentum"),
        ({"schedule": "cosine"}, "schedule must be one of"),
        ({"schedule": "exponential"}, "until total_steps, which is not set"),
        ({"reduction": "none"}, "reduction must be one of mean, sum"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SSO([nn.Parameter(torch.ones(1))], **options)


def test_groups_share_what_is_done_with_all_outputs():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"target_lr is one for all groups, got 1\.0 and 2\.0"):
        SSO([{"params": [first]}, {"params": [second], "target_lr": 2.0}])
    with pytest.raises(ValueError, match="lr is one for all groups"):
        SSO([{"params": [first]}, {"params": [second], "lr": 2.0}], inner="lbfgs")
    SSO([{"params": [first]}, {"params": [second], "lr": 2.0, "weight_decay": 0.1}])
    assert ArmijoLineSearch.needs_closure
    assert SSO.needs_problem
