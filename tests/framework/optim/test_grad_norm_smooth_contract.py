"""How gradient-normalized smoothness is driven: closures, resuming, two ranks, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from framework.distributed.collectives import rank, world_size
from framework.optim import GradNormSmoothNewton, TargetClosure
from tests.helpers.newton import bowl, closure_of, plain, rosenbrock, search_of, start
from tests.helpers.weights import save_and_load

# ---- closures ------------------------------------------------------------------------------------


def test_a_plain_closure_is_called_at_every_try():
    x, calls = start(1.0, 1.0), []
    GradNormSmoothNewton([x]).step(plain(x, bowl, calls))
    assert [call.tolist() for call in calls] == [[1, 1], x.tolist()]


def test_a_plain_closure_and_a_problem_step_alike():
    ends = []
    for make in (plain, closure_of):
        x = start(-1.2, 1.0)
        optimizer = GradNormSmoothNewton([x])
        for _ in range(5):
            optimizer.step(make(x, rosenbrock))
        ends.append(x.detach())
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_a_closure_beside_a_problem_is_called_once():
    x, calls = start(-1.2, 1.0), []
    problem = closure_of(x, rosenbrock)
    optimizer = GradNormSmoothNewton([x], curvature="exact", full_batch=True)
    for step in range(3):
        before = torch.autograd.grad(rosenbrock(x), x)[0]
        optimizer.step(plain(x, rosenbrock, calls), problem=problem)
        assert len(calls) == step + 1
        torch.testing.assert_close(x.grad, before)
    assert "loss" not in search_of(optimizer)


def test_tries_see_the_random_numbers_of_the_step():
    x, noise = start(1.0, 1.0), []

    def noisy(z):
        noise.append(torch.rand(2, dtype=torch.float64))
        return bowl(z + noise[-1])

    torch.manual_seed(3)
    GradNormSmoothNewton([x]).step(plain(x, noisy))
    after = torch.rand(1)
    torch.manual_seed(3)
    first = torch.rand(2, dtype=torch.float64)
    assert len(noise) == 2
    assert all(torch.equal(numbers, first) for numbers in noise)
    assert torch.equal(torch.rand(1), after)


def test_a_closure_may_return_a_number():
    x = start(1.0, 1.0)

    def closure():
        x.grad = torch.tensor([1.0, 10.0]).double() * x.detach()
        return bowl(x).item()

    optimizer = GradNormSmoothNewton([x], full_batch=True)
    optimizer.step(closure)
    assert (x.detach() - 1).norm().item() == pytest.approx(1)
    # to the precision of the parameters
    assert search_of(optimizer)["loss"].item() == bowl(x).item()


# ---- resuming ------------------------------------------------------------------------------------


def pair(curvature, dtype):
    x = start(-1.2, 1.0, dtype=dtype)
    y = start(0.5, dtype=torch.float32)
    optimizer = GradNormSmoothNewton([x], curvature=curvature, full_batch=True)
    optimizer.add_param_group({"params": [y]})
    closure = TargetClosure(
        [x, y], lambda: (x.float(), y), lambda z: rosenbrock(z[0]) + z[1].square().sum()
    )
    return [x, y], optimizer, closure


@pytest.mark.parametrize("curvature", ["zero", "exact", "ggn", "empirical_fisher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_of_full_batches_ends_with_the_same_bits(curvature, dtype):
    whole, optimizer, closure = pair(curvature, dtype)
    for _ in range(3):
        optimizer.step(closure)
    saved = save_and_load(optimizer.state_dict())
    values = [p.detach().clone() for p in whole]
    for _ in range(3):
        optimizer.step(closure)
    resumed, other, closure = pair(curvature, dtype)
    for p, value in zip(resumed, values, strict=True):
        p.data = value
    untouched = copy.deepcopy(saved)
    other.load_state_dict(saved)
    for _ in range(3):
        other.step(closure)
    for p, q in zip(whole, resumed, strict=True):
        assert torch.equal(p, q)
    assert str(search_of(other)) == str(search_of(optimizer))
    assert saved["state"]["search"]["gamma"] == untouched["state"]["search"]["gamma"]


def test_a_function_is_not_saved():
    x = start(1.0, 1.0)
    function = lambda: torch.eye(2).double()  # noqa: E731
    optimizer = GradNormSmoothNewton([x], curvature=function)
    optimizer.step(plain(x, bowl))
    saved = save_and_load(optimizer.state_dict())
    again = GradNormSmoothNewton([x], curvature=function)
    again.load_state_dict(saved)
    again.step(plain(x, bowl))
    without = GradNormSmoothNewton([x])
    without.load_state_dict(saved)
    with pytest.raises(ValueError, match="construct the optimizer with that function"):
        without.step(plain(x, bowl))


def test_a_new_group_starts_afresh():
    x, y = start(-1.2, 1.0), start(2.0)
    optimizer = GradNormSmoothNewton([x], full_batch=True)
    optimizer.step(closure_of(x, rosenbrock))
    optimizer.add_param_group({"params": [y]})
    before = search_of(optimizer)["evaluations"]
    closure = TargetClosure([x, y], lambda: (x, y), lambda z: rosenbrock(z[0]) + z[1].sum())
    optimizer.step(closure)
    assert y.item() != 2
    assert search_of(optimizer)["evaluations"] >= before + 2


# ---- two ranks -----------------------------------------------------------------------------------


def logistic_steps(curvature: str, as_problem: bool) -> list:
    """Return weights and state after some steps on this rank's rows, 5 and 2 of 7."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    if world_size() > 1:
        rows = slice(0, 5) if rank() == 0 else slice(5, 7)
        x, y = x[rows], y[rows]
    # the mean over ranks of what a rank has is the mean over all rows
    share = world_size() * len(x) / 7
    w = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    closure = TargetClosure([w], lambda: x @ w, lambda z: share * F.cross_entropy(z, y))

    def given() -> torch.Tensor:
        """A bound of the Hessian, whose rows are this rank's."""
        return share * (x.T @ x / len(x)).kron(torch.eye(3, dtype=torch.float64)) / 2

    chosen = given if curvature == "given" else curvature
    optimizer = GradNormSmoothNewton([w], gamma0=4.0, curvature=chosen)
    for _ in range(6):
        if as_problem:
            optimizer.step(closure)
        else:
            optimizer.step(lambda: closure())
    return [w.detach(), search_of(optimizer)]


@pytest.mark.parametrize(
    ("curvature", "as_problem"),
    [
        ("zero", False),
        ("zero", True),
        ("exact", True),
        ("ggn", True),
        ("given", False),
        ("empirical_fisher", True),
    ],
)
def test_two_ranks_step_as_one(two_ranks, curvature, as_problem):
    alone = logistic_steps(curvature, as_problem)
    first, second = two_ranks(logistic_steps, curvature, as_problem)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]
    torch.testing.assert_close(first[0], alone[0], rtol=1e-10, atol=1e-10)
    assert first[1]["evaluations"] == alone[1]["evaluations"]
    assert first[1]["gamma"] == alone[1]["gamma"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma0": 0.0}, "gamma0 must be"),
        ({"gamma_min": -1.0}, "gamma_min must be"),
        ({"gamma_max": math.inf}, "gamma_max must be"),
        ({"damping": -1e-3}, "damping must be at least 0"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"max_search": 0}, "max_search must be at least 1"),
        ({"cg_iterations": 0}, "cg_iterations must be at least 1"),
        ({"cg_tolerance": 0.0}, "cg_tolerance must be"),
        ({"curvature": "hessian"}, "curvature must be one of zero, empirical_fisher, ggn, exact"),
        ({"metric": [1.0]}, "must be a list of tensors"),
        ({"metric": [torch.ones(3)]}, "of the shapes"),
        ({"metric": [torch.tensor([1.0, 0.0])]}, "must be positive"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        GradNormSmoothNewton([start(1.0, 1.0)], **options)


def test_no_parameters():
    with pytest.raises(ValueError, match="empty parameter list"):
        GradNormSmoothNewton([])


def test_groups_with_options_of_their_own():
    optimizer = GradNormSmoothNewton([start(1.0)])
    with pytest.raises(ValueError, match=r"damping is one for all groups, got 0\.0 and 1\.0"):
        optimizer.add_param_group({"params": [start(1.0)], "damping": 1.0})
    with pytest.raises(ValueError, match=r"no weight decay, got 0\.1"):
        optimizer.add_param_group({"params": [start(1.0)], "weight_decay": 0.1})


def test_no_closure():
    with pytest.raises(RuntimeError, match="step needs a closure, which float16's"):
        GradNormSmoothNewton([start(1.0)]).step()


@pytest.mark.parametrize("curvature", ["exact", "ggn"])
def test_a_plain_closure_gives_no_second_derivatives(curvature):
    x = start(1.0, 1.0)
    optimizer = GradNormSmoothNewton([x], curvature=curvature)
    with pytest.raises(ValueError, match="give step a TargetClosure"):
        optimizer.step(plain(x, bowl))


def test_a_closure_without_a_loss():
    x = start(1.0)
    with pytest.raises(ValueError, match="must return the loss of the step"):
        GradNormSmoothNewton([x]).step(lambda: None)


def test_sparse_and_complex_gradients():
    x = start(1.0, 1.0)

    def closure():
        x.grad = torch.ones(2, dtype=torch.float64).to_sparse()
        return 1.0

    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        GradNormSmoothNewton([x]).step(closure)
    with pytest.raises(RuntimeError, match="does not support complex parameters"):
        GradNormSmoothNewton([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])


def test_a_schedule_is_refused():
    x = start(1.0)
    optimizer = GradNormSmoothNewton([x])
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    with pytest.raises(RuntimeError, match="no learning rate that a schedule could set"):
        optimizer.step(plain(x, lambda z: z.square().sum()))
