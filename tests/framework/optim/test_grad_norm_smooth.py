"""Gradient-normalized smoothness: worked numbers, real data, the search and its options."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from framework.optim import GradNormSmoothNewton, TargetClosure
from tests.helpers.newton import bowl, closure_of, plain, rosenbrock, search_of, start

# ---- worked numbers ------------------------------------------------------------------------------


def test_rosenbrock_step_by_step():
    x = start(-1.2, 1.0)
    optimizer = GradNormSmoothNewton([x], curvature="exact")
    closure = closure_of(x, rosenbrock)
    optimizer.step(closure)
    first = x.grad.norm().item()
    assert first == pytest.approx(232.867688, abs=1e-6)  # |g| / gamma with gamma 1
    torch.testing.assert_close(
        x.detach() - torch.tensor([-1.2, 1.0]).double(),
        torch.tensor([0.114514, 0.076313]).double(),
        rtol=0,
        atol=1e-6,
    )
    assert rosenbrock(x).item() == pytest.approx(5.388991, abs=1e-6)
    assert search_of(optimizer)["gradient_norm"] == pytest.approx(52.562200, abs=1e-6)
    assert search_of(optimizer)["gradient_norm"] ** 2 / (8 * first) == pytest.approx(
        1.483023, abs=1e-6
    )
    assert search_of(optimizer)["gamma"] == 2
    optimizer.step(closure)
    assert x.grad.norm().item() / 2 == pytest.approx(26.281100, abs=1e-6)
    assert rosenbrock(x).item() == pytest.approx(4.134615, abs=1e-6)
    assert search_of(optimizer)["gamma"] == 4
    before = search_of(optimizer)["evaluations"]
    optimizer.step(closure)
    assert rosenbrock(x).item() == pytest.approx(3.807703, abs=1e-6)
    # 4, 2 and 1 were rejected, 0.5 was not, and doubled
    assert x.grad.norm().item() / 0.5 == pytest.approx(9.317393, abs=1e-6)
    assert search_of(optimizer)["gamma"] == 1
    assert search_of(optimizer)["evaluations"] - before == 1 + 4


def test_rosenbrock_takes_45_steps_of_2_evaluations():
    x = start(-1.2, 1.0)
    optimizer = GradNormSmoothNewton([x], curvature="exact", full_batch=True)
    closure = closure_of(x, rosenbrock)
    norms = []
    for _ in range(45):
        optimizer.step(closure)
        norms.append(search_of(optimizer)["gradient_norm"])
    assert norms[-1] < 1e-8 < norms[-2]
    # that of the start is one more
    assert search_of(optimizer)["evaluations"] == 1 + 90


@pytest.mark.parametrize("gamma", [1.0, 0.25])
def test_a_first_step_without_curvature_has_length_gamma(gamma):
    x = start(1.0, 1.0)
    GradNormSmoothNewton([x], gamma0=gamma).step(plain(x, bowl))
    assert (x.detach() - 1).norm().item() == pytest.approx(gamma, abs=1e-15)
    if gamma == 1:
        torch.testing.assert_close(
            x.detach(), torch.tensor([0.900496, 0.004963]).double(), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("curvature", ["exact", "ggn", "function"])
@pytest.mark.parametrize(
    ("gamma", "end"), [(100.0, (0.091321, 0.009950)), (1e6, (1.005e-5, 1.005e-6))]
)
def test_a_large_gamma_is_newtons_method(curvature, gamma, end):
    x = start(1.0, 1.0)
    if curvature == "function":
        matrix = torch.diag(torch.tensor([1.0, 10.0]).double())
        curvature = lambda: matrix  # noqa: E731
    optimizer = GradNormSmoothNewton([x], gamma0=gamma, curvature=curvature)
    optimizer.step(closure_of(x, bowl))
    torch.testing.assert_close(x.detach(), torch.tensor(end).double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_the_empirical_fisher_is_that_of_the_latest_gradients(rank):
    x, y, gradients = start(-1.2, 1.0), start(-1.2, 1.0), []

    def latest() -> torch.Tensor:
        gradients.append(torch.autograd.functional.jacobian(rosenbrock, y.detach()))
        rows = torch.stack(gradients[-rank:])
        return rows.T @ rows / len(rows)

    ours = GradNormSmoothNewton([x], curvature="empirical_fisher", rank=rank)
    theirs = GradNormSmoothNewton([y], curvature=latest)
    for _ in range(5):
        ours.step(plain(x, rosenbrock))
        theirs.step(plain(y, rosenbrock))
    torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


# ---- real data -----------------------------------------------------------------------------------


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, label = load_digits(return_X_y=True)
    return torch.from_numpy(pixels) / 16, torch.from_numpy(label % 2).double() * 2 - 1


def parity_of_digits(curvature: str, steps: int) -> tuple[float, dict]:
    x, y = digits()
    signed = x * y[:, None]
    w = nn.Parameter(torch.zeros(64, dtype=torch.float64))

    def per_sample() -> torch.Tensor:
        return (signed.T * torch.sigmoid(-signed @ w) ** 2) @ signed / len(y)

    matrices = {"per_sample": per_sample, "bound": lambda: x.T @ x / (4 * len(y))}
    chosen = matrices.get(curvature, curvature)
    optimizer = GradNormSmoothNewton([w], curvature=chosen, full_batch=True)
    closure = TargetClosure([w], lambda: signed @ w, lambda z: F.softplus(-z).mean())
    for _ in range(steps):
        optimizer.step(closure)
        if search_of(optimizer)["gradient_norm"] < 1e-8:
            break
    return search_of(optimizer)["loss"].item(), search_of(optimizer)


@pytest.mark.parametrize("curvature", ["exact", pytest.param("ggn", marks=pytest.mark.slow)])
def test_logistic_regression_with_the_exact_hessian(curvature):
    loss, search = parity_of_digits(curvature, 300)
    assert loss == pytest.approx(0.168203, abs=1e-6)
    assert search["gradient_norm"] < 1e-8
    assert abs(search["step"] - 34) <= 1
    assert abs(search["evaluations"] - (1 + 64)) <= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("curvature", "loss", "norm", "evaluations"),
    [("per_sample", 0.168734, 9.4e-5, 603), ("bound", 0.168753, 9.8e-5, 601)],
)
def test_logistic_regression_with_a_matrix(curvature, loss, norm, evaluations):
    found, search = parity_of_digits(curvature, 300)
    assert found == pytest.approx(loss, abs=2e-6)
    assert search["gradient_norm"] == pytest.approx(norm, rel=0.02)
    assert abs(search["evaluations"] - (1 + evaluations)) <= 4


def test_logistic_regression_without_curvature():
    found, search = parity_of_digits("zero", 300)
    assert found == pytest.approx(0.187733, abs=2e-6)
    assert search["gradient_norm"] == pytest.approx(1.1e-2, rel=0.03)
    assert abs(search["evaluations"] - (1 + 604)) <= 4


# ---- the search ----------------------------------------------------------------------------------


def test_an_indefinite_hessian_halves_gamma():
    # the Hessian is -12 at the start, so that gamma 100 leaves H + |g| / gamma negative
    x = start(0.1)
    optimizer = GradNormSmoothNewton([x], gamma0=100.0, curvature="exact")
    loss = optimizer.step(closure_of(x, lambda z: (z**4 - 6 * z**2).sum()))
    assert search_of(optimizer)["accepted"]
    assert search_of(optimizer)["gamma"] < 100
    assert (x**4 - 6 * x**2).sum() < loss


@pytest.mark.parametrize("closure_kind", [plain, closure_of])
def test_no_accepted_try_leaves_the_point_alone(closure_kind):
    x = start(0.3, -0.7)
    before = x.detach().clone()
    calls = []

    def rising(z):
        calls.append(1)
        # every further evaluation finds a larger loss
        return z.square().sum() + len(calls)

    optimizer = GradNormSmoothNewton([x], max_search=7)
    optimizer.step(closure_kind(x, rising))
    assert torch.equal(x, before)
    assert len(calls) == 1 + 7
    assert not search_of(optimizer)["accepted"]
    assert search_of(optimizer)["gamma"] == 2.0**-6


def test_gamma_stays_within_its_bounds():
    x = start(0.3)
    optimizer = GradNormSmoothNewton([x], gamma_min=0.5, max_search=20)
    counter = iter(range(100))
    optimizer.step(plain(x, lambda z: z.sum() + next(counter)))
    assert search_of(optimizer)["gamma"] == 0.5
    x = start(3.0)
    optimizer = GradNormSmoothNewton([x], curvature="exact", gamma_max=3.0)
    for _ in range(3):
        optimizer.step(closure_of(x, lambda z: z.square().sum()))
    assert search_of(optimizer)["gamma"] == 3.0


def test_the_gradient_decides_where_the_loss_is_rounded():
    # in float32, 1e4 + x^2 / 2 is flat around 0 to its last digit
    x = start(1e-3, dtype=torch.float32)
    optimizer = GradNormSmoothNewton([x], gamma0=1e3, curvature="exact")
    optimizer.step(closure_of(x, lambda z: 1e4 + 0.5 * z.square().sum()))
    assert search_of(optimizer)["accepted"]
    assert abs(x.item()) < 1e-6


def test_a_stationary_point_is_left_alone():
    x = start(0.0, 0.0)
    optimizer = GradNormSmoothNewton([x], curvature="exact")
    optimizer.step(closure_of(x, bowl))
    assert x.tolist() == [0, 0]
    assert search_of(optimizer)["evaluations"] == 1
    assert search_of(optimizer)["gamma"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_moves_nothing(value):
    x = start(1.0)
    optimizer = GradNormSmoothNewton([x])
    optimizer.step(plain(x, lambda z: z.sum() * value))
    assert x.tolist() == [1.0]
    assert not search_of(optimizer)["accepted"]


def test_a_try_beyond_the_domain_is_rejected():
    # log is NaN left of 0, where gamma 8 leads
    x = start(1.0)
    optimizer = GradNormSmoothNewton([x], gamma0=8.0)
    optimizer.step(plain(x, lambda z: (z - z.log() * 0.5).sum()))
    assert 0 < x.item() < 1
    assert search_of(optimizer)["accepted"]


def test_an_error_in_a_try_moves_nothing():
    x = start(1.0)
    calls = []

    def once(z):
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("batch")
        return z.square().sum()

    with pytest.raises(KeyError):
        GradNormSmoothNewton([x]).step(plain(x, once))
    assert x.tolist() == [1.0]


# ---- options -------------------------------------------------------------------------------------


def steps(curvature: str, maximize: bool = False, full_batch: bool = False, count: int = 6, **more):
    x = start(-1.2, 1.0)
    sign = -1 if maximize else 1
    optimizer = GradNormSmoothNewton(
        [x], curvature=curvature, maximize=maximize, full_batch=full_batch, **more
    )
    closure = closure_of(x, lambda z: sign * rosenbrock(z))
    losses = [optimizer.step(closure).item() for _ in range(count)]
    return x.detach(), losses, optimizer


@pytest.mark.parametrize("curvature", ["zero", "exact", "ggn", "empirical_fisher"])
def test_maximize_is_the_step_on_the_negative(curvature):
    (x, losses, _), (y, negative, _) = steps(curvature), steps(curvature, maximize=True)
    torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert losses == pytest.approx([-loss for loss in negative])


@pytest.mark.parametrize("curvature", ["zero", "exact", "ggn", "empirical_fisher"])
def test_full_batch_saves_one_evaluation_a_step(curvature):
    x, losses, all_of_them = steps(curvature)
    y, kept_losses, kept = steps(curvature, full_batch=True)
    torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)
    assert losses == pytest.approx(kept_losses)
    saved = search_of(all_of_them)["evaluations"] - search_of(kept)["evaluations"]
    assert saved == 5


def test_full_batch_shows_the_gradient_of_the_start():
    x = start(-1.2, 1.0)
    optimizer = GradNormSmoothNewton([x], full_batch=True)
    closure = closure_of(x, rosenbrock)
    for _ in range(2):
        expected = torch.autograd.grad(rosenbrock(x), x)[0]
        optimizer.step(closure)
        torch.testing.assert_close(x.grad, expected)


def test_a_metric_is_a_change_of_variables():
    # with y = sqrt(b) x, the norm of x in the metric b is the length of y
    b = torch.tensor([4.0, 0.25]).double()
    x, y = start(-1.2, 1.0), start(-2.4, 0.5)
    for curvature in ("zero", "exact", "ggn", "empirical_fisher"):
        x.data, y.data = torch.tensor([-1.2, 1.0]).double(), torch.tensor([-2.4, 0.5]).double()
        ours = GradNormSmoothNewton([x], curvature=curvature, metric=[b])
        theirs = GradNormSmoothNewton([y], curvature=curvature)
        for _ in range(4):
            ours.step(closure_of(x, rosenbrock))
            theirs.step(closure_of(y, lambda z: rosenbrock(z / b.sqrt())))
        torch.testing.assert_close(x * b.sqrt(), y, rtol=1e-9, atol=1e-9)


def test_damping_adds_to_the_solve():
    x = start(1.0, 1.0)
    GradNormSmoothNewton([x], gamma0=1e9, curvature="exact", damping=10.0).step(closure_of(x, bowl))
    torch.testing.assert_close(x.detach(), torch.tensor([10 / 11, 0.5]).double())


def test_eps_adds_to_gamma():
    x = start(1.0, 1.0)
    GradNormSmoothNewton([x], gamma0=0.5, eps=0.25).step(plain(x, bowl))
    assert (x.detach() - 1).norm().item() == pytest.approx(0.75)


def test_groups_are_stepped_together():
    a, b, whole = start(-1.2), start(1.0), start(-1.2, 1.0)
    groups = [{"params": [a], "bias": True}, {"params": [b], "weight_decay": 0.0}]
    apart = GradNormSmoothNewton(groups, curvature="exact")
    joint = GradNormSmoothNewton([whole], curvature="exact")
    for _ in range(4):
        apart.step(TargetClosure([a, b], lambda: torch.cat([a, b]), rosenbrock))
        joint.step(closure_of(whole, rosenbrock))
    torch.testing.assert_close(torch.cat([a, b]), whole.detach(), rtol=1e-12, atol=1e-12)
    assert [group["lr"] for group in apart.param_groups] == [search_of(apart)["gamma"]] * 2


def test_what_has_no_gradient_stays():
    x, idle, frozen = start(1.0, 1.0), start(5.0), start(7.0).requires_grad_(False)
    for curvature in ("zero", "exact", "ggn", "empirical_fisher"):
        optimizer = GradNormSmoothNewton([x, idle, frozen], curvature=curvature)
        optimizer.step(TargetClosure([x, idle], lambda: x, bowl))
    assert (idle.item(), frozen.item()) == (5, 7)
    assert idle.grad is None


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32,) * 2])
@pytest.mark.parametrize("curvature", ["zero", "exact", "ggn"])
def test_lower_precision_steps_alike(curvature, dtypes):
    a, b, whole = start(1.0, dtype=dtypes[0]), start(1.0, dtype=dtypes[1]), start(1.0, 1.0)
    ours = GradNormSmoothNewton([a, b], curvature=curvature)
    theirs = GradNormSmoothNewton([whole], curvature=curvature)
    ours.step(TargetClosure([a, b], lambda: torch.cat([a.float(), b.float()]), bowl))
    theirs.step(closure_of(whole, bowl))
    found = torch.cat([a.float(), b.float()])
    torch.testing.assert_close(found, whole.detach().float(), rtol=1e-2, atol=1e-2)
