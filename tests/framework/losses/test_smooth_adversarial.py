"""The smooth adversarial comp-sum loss: its numbers, its bound, and its two forward passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from framework.attacks.attack import Attack
from framework.attacks.pgd import PGDAttack
from framework.losses import CompSumLoss, SmoothAdversarialCompSumLoss
from framework.losses.smooth_adversarial import margin_shift
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from tests.helpers.configs import arguments
from tests.helpers.runs import CONFIGS, fit

CLEAN = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]], dtype=torch.float64)
ATTACKED = torch.tensor([[1.5, -0.5, 0.7], [0.4, 0.3, -0.4]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])


class Given(Attack):
    """An attack that returns what it was made with."""

    def __init__(self, found: Tensor) -> None:
        super().__init__()
        self.found = found

    def search(self, forward: Any, pixels: Tensor, objective: Any, generator: Any) -> Tensor:
        return self.found


def at_given(logits: Tensor = ATTACKED, **kwargs: Any) -> Callable[..., Tensor]:
    """Return the loss as a function of the logits at x, those at x' being ``logits``."""
    loss = SmoothAdversarialCompSumLoss(attack=Given(logits), reduction="none", **kwargs)

    def call(predictions: Tensor, targets: Tensor = LABELS, step: int = 0) -> Tensor:
        return loss(predictions, targets, inputs=predictions, forward=lambda x: x, step=step)

    return call


def close(value: Tensor, expected: list[float], tolerance: float = 1e-6) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value, wanted, rtol=0, atol=tolerance)


def test_numbers_of_the_paper_s_definition():
    close(margin_shift(ATTACKED - CLEAN, LABELS), [1.220656, 0.5])
    close(at_given(tau=1.0, nu=1.0)(CLEAN), [1.461967, 1.885939])
    close(at_given(tau=0.4, nu=1.0)(CLEAN), [1.480311, 2.661512])
    # by hand: the margins' differences are (-1, -0.7) and (0.3, 0.4)
    close(margin_shift(ATTACKED - CLEAN, LABELS), [1.49**0.5, 0.25**0.5], 1e-12)


def test_rho_divides_the_logits_of_the_clean_term_only():
    clean = CompSumLoss(1.7, reduction="none")(CLEAN / 2, LABELS)
    value = at_given(tau=1.7, rho=2.0, nu=3.0)(CLEAN)
    close(value, (clean + 3 * torch.tensor([1.49**0.5, 0.5])).tolist())


def test_the_norm_is_that_of_the_margins():
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(5, (7,), generator=generator)
    for row, y, norm in zip(shift, label, margin_shift(shift, label), strict=True):
        margins = torch.cat([row[y] - row[:y], row[y] - row[y + 1 :]])
        torch.testing.assert_close(norm, margins.norm())
    # K d_y^2 - 2 d_y sum d + sum d^2, and no change by adding a constant to a row
    own = shift.gather(1, label[:, None]).squeeze(1)
    square = 5 * own**2 - 2 * own * shift.sum(1) + shift.square().sum(1)
    torch.testing.assert_close(margin_shift(shift, label).square(), square)
    torch.testing.assert_close(margin_shift(shift + 9, label), margin_shift(shift, label))


def test_a_margin_that_did_not_move_costs_nothing_and_has_a_gradient():
    logits = CLEAN.clone().requires_grad_()
    value = at_given(CLEAN)(logits)
    assert torch.equal(value, CompSumLoss(reduction="none")(CLEAN, LABELS))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    clean = logits.detach().clone().requires_grad_()
    (expected,) = torch.autograd.grad(CompSumLoss(reduction="sum")(clean, LABELS), clean)
    assert torch.equal(gradient, expected)


def test_the_weight_grows_linearly_from_zero():
    loss = SmoothAdversarialCompSumLoss(nu=2.0, nu_warmup_steps=4)
    assert [loss.nu_at(step) for step in (0, 1, 2, 4, 9)] == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert SmoothAdversarialCompSumLoss(nu=2.0).nu_at(0) == 2.0
    clean = CompSumLoss(reduction="none")(CLEAN, LABELS)
    value = at_given(nu=2.0, nu_warmup_steps=4)(CLEAN, step=1)
    close(value - clean, [0.5 * 1.49**0.5, 0.25], 1e-12)


@pytest.mark.parametrize("tau", [0.4, 1.0, 1.7])
def test_gradient_flows_through_both_predictions(tau):
    loss = SmoothAdversarialCompSumLoss(tau=tau, rho=1.3, nu=0.7, reduction="none")

    def value(clean: Tensor, attacked: Tensor) -> Tensor:
        return loss.per_sample(clean, LABELS, step=1, adversarial=attacked)

    inputs = (CLEAN.clone().requires_grad_(), ATTACKED.clone().requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)
    clean, attacked = torch.autograd.grad(value(*inputs).sum(), inputs)
    assert attacked.abs().min() > 1e-3
    # what x' pushes one way, x is pushed the other way, beside its own term
    own = torch.autograd.grad(CompSumLoss(tau, reduction="sum")(inputs[0] / 1.3, LABELS), inputs[0])
    torch.testing.assert_close(clean + attacked, own[0])


@given(st.integers(2, 12), st.floats(0.2, 3.0), st.floats(0.0, 3.0), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_bounds_the_adversarial_margin_loss(classes, rho, tau, seed):
    generator = torch.Generator().manual_seed(seed)
    clean, attacked = 3 * torch.randn(2, 40, classes, generator=generator, dtype=torch.float64)
    label = torch.randint(classes, (40,), generator=generator)
    others = torch.ones(40, classes, dtype=torch.bool).scatter(1, label[:, None], False)
    margins = (attacked.gather(1, label[:, None]) - attacked)[others].view(40, classes - 1)
    u = (1 - margins / rho).clamp(0, 1).sum(1)  # the rho-margin loss at x'
    power = 1 - tau
    margin_loss = u.log1p() if abs(power) < 1e-6 else ((1 + u) ** power - 1) / power
    bound = at_given(attacked, tau=tau, rho=rho, nu=(classes - 1) ** 0.5 / rho)(clean, label)
    assert (margin_loss <= bound + 1e-9).all()


def test_the_bound_fails_with_a_smaller_weight():
    # all margins at x are small and at x' zero, where the sum-exponential margin loss is K - 1
    clean, label = torch.zeros(1, 10, dtype=torch.float64), torch.tensor([0])
    clean[0, 0] = 0.05
    bound, less = (
        at_given(torch.zeros_like(clean), tau=0.0, nu=share * 3)(clean, label) for share in (1, 0.9)
    )
    assert less < 9 < bound


def test_the_attack_approaches_what_a_linear_model_allows():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    label, eps = torch.tensor([0, 1, 2, 3]), 0.3
    bound = []
    for y in label:
        onto_margins = torch.eye(4, dtype=torch.float64)[y] - torch.eye(4, dtype=torch.float64)
        bound.append(eps * torch.linalg.matrix_norm(onto_margins @ weight, ord=2))
    model = nn.Linear(6, 4, bias=False).double()
    model.weight.data = weight
    inputs = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    attack = PGDAttack(eps, steps=100, norm="l2", clamp=None)
    loss = SmoothAdversarialCompSumLoss(nu=1.0, attack=attack, reduction="none")
    value = loss(model(inputs), label, inputs=inputs, forward=model, step=0)
    penalty = value - CompSumLoss(reduction="none")(model(inputs), label)
    assert (penalty <= torch.stack(bound) + 1e-9).all()
    assert (penalty >= 0.999 * torch.stack(bound)).all()


# ---- the two forward passes -------------------------------------------------------------------


class Network(nn.Module):
    """Counts its passes by mode."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)
            )
        self.passes: list[tuple[bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.body(x)
        self.passes.append((self.training, logits.dtype))
        return logits


def data(rows: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(8, 5, generator=generator, dtype=torch.float64)[:rows]
    return x, torch.randint(3, (8,), generator=generator)[:rows]


def build(eps: float = 0.1, **kwargs: Any) -> SmoothAdversarialCompSumLoss:
    return SmoothAdversarialCompSumLoss(attack=PGDAttack(eps=eps, steps=3), **kwargs)


def value_of(loss: nn.Module, model: nn.Module, rows: int = 6, step: int = 3, **now: int) -> Tensor:
    inputs, label = data(rows)
    return loss(model(inputs), label, inputs=inputs, forward=model, step=step, **now)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.7])
def test_no_radius_is_exactly_the_clean_loss(tau):
    model = Network().double()
    inputs, label = data()
    clean = CompSumLoss(tau)(model(inputs), label)
    assert torch.equal(value_of(build(eps=0.0, tau=tau), model), clean)


def test_trains_in_training_mode_and_attacks_in_evaluation_mode():
    model = Network(dropout=0.5).double()
    value_of(build(), model).backward()
    modes = [training for training, _ in model.passes]
    # clean; the reference and three steps of the attack; attacked
    assert modes == [True, *[False] * 4, True]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_evaluation_measures_the_clean_term():
    model, loss = Network().double().eval(), build().eval()
    inputs, label = data()
    assert torch.equal(value_of(loss, model), CompSumLoss()(model(inputs), label))
    assert len(model.passes) == 2


def test_the_attack_finds_more_than_noise_does():
    model = Network().double()
    noise = SmoothAdversarialCompSumLoss(attack=PGDAttack(eps=0.1, steps=0))
    assert value_of(build(), model) > value_of(noise, model) + 0.02


def test_the_step_decides_the_start():
    first, again, other = (value_of(build(), Network().double(), step=step) for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_batches_of_a_step_start_elsewhere():
    values = [value_of(build(), Network().double(), micro_batch=k) for k in (0, 1, 1)]
    assert values[0] == value_of(build(), Network().double())
    assert values[1] == values[2]
    assert values[0] != values[1]


def test_both_passes_run_in_the_precision_around_the_loss():
    model = Network()
    inputs, label = data()
    inputs = inputs.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
        value = build(eps=0.0)(logits, label, inputs=inputs, forward=model, step=0)
    assert value.dtype == torch.float32
    kinds = [dtype for _, dtype in model.passes]
    assert kinds[0] == kinds[-1] == torch.bfloat16
    assert set(kinds[1:-1]) == {torch.float32}  # the attack
    # bit by bit the same logits twice, so nothing has moved
    assert value == CompSumLoss()(logits, label)


def test_an_empty_batch_gives_a_zero_that_reaches_the_parameters():
    model = nn.Linear(5, 3).double()
    value = value_of(build(), model, rows=0)
    assert value == 0
    value.backward()
    assert not model.weight.grad.any()


def test_soft_labels_and_wrong_shapes_are_refused():
    model = Network().double()
    inputs, label = data()
    keywords = {"inputs": inputs, "forward": model, "step": 0}
    with pytest.raises(ValueError, match="SmoothAdversarialCompSumLoss is defined for hard labels"):
        build()(model(inputs), torch.rand(6, 3).double(), **keywords)
    with pytest.raises(ValueError, match="takes logits of shape"):
        build()(model(inputs)[:, 0], label, **keywords)
    with pytest.raises(ValueError, match="6 rows of predictions but 4 of targets"):
        build()(model(inputs), label[:4], **keywords)
    with pytest.raises(TypeError, match="needs forward, step as keyword"):
        build()(model(inputs), label, inputs=inputs)


def test_refuses_arguments_out_of_range():
    for bad, message in (
        ({"rho": 0.0}, "rho must be positive"),
        ({"nu": -1.0}, "nu must be at least 0"),
        ({"nu_warmup_steps": -1}, "nu_warmup_steps must be at least 0"),
        ({"tau": -1.0}, "tau must be"),
        ({"attack": PGDAttack(random_start=False)}, "needs random_start"),
    ):
        with pytest.raises(ValueError, match=message):
            SmoothAdversarialCompSumLoss(**bad)


# ---- collapse ---------------------------------------------------------------------------------


def test_warns_once_of_a_constant_prediction():
    loss = SmoothAdversarialCompSumLoss()
    constant, label = torch.zeros(50, 10), torch.arange(50) % 10
    right = torch.nn.functional.one_hot(label, 10).float()
    for step, logits, attacked in (
        (0, constant, constant),  # an untrained model
        (99, constant, constant),  # not looked at
        (100, right, right),  # nothing moves, but it has learned
        (100, constant, constant + torch.eye(50)[:, :10]),  # chance, but something moves
        (100, constant[:0], constant[:0]),
    ):
        rows = len(logits)
        loss.per_sample(logits, label[:rows], step=step, adversarial=attacked)
    with pytest.warns(UserWarning, match="the accuracy 0.100 is that of chance"):
        loss.per_sample(constant, label, step=200, adversarial=constant)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.per_sample(constant, label, step=300, adversarial=constant)


# ---- two ranks --------------------------------------------------------------------------------


def one_step(split: int) -> dict[str, Tensor]:
    """Return this rank's value and gradient, of eight rows ``split`` on the first rank."""
    alone = not dist.is_initialized()
    rows = slice(8) if alone else slice(split) if dist.get_rank() == 0 else slice(split, 8)
    inputs, label = (field[rows] for field in data(8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    loss = build(reduction="none", nu=0.5)
    values = loss(model(inputs), label, inputs=inputs, forward=model, step=2)
    total = reduce_objectives(Objectives(per_sample={"loss": values}, predictions=values)).total
    gradient = torch.autograd.grad(total, model[0].weight)[0]
    return {"value": total.detach(), "gradient": gradient}


@pytest.mark.parametrize("split", [5, 8])
def test_two_uneven_ranks_equal_one_process(split, two_ranks):
    one, ranks = one_step(split), two_ranks(one_step, split)
    assert one["gradient"].abs().max() > 1e-3
    for key in ("value", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_trains_in_half_precision(precision, tmp_path):
    args = [*arguments("adversarial"), f"--run_folder={tmp_path}"]
    record = fit([*args, f"--trainer.precision={precision}", "--trainer.max_steps=3"])
    assert len(record.steps) == 3


@pytest.mark.slow
def test_the_config_reaches_what_its_header_says(tmp_path):
    args = [f"--config={CONFIGS / 'adversarial.yaml'}"]
    ours = fit([*args, f"--run_folder={tmp_path / 'ours'}"]).metrics
    plain = ["--model.criterion=CrossEntropyLoss", f"--run_folder={tmp_path / 'ce'}"]
    cross_entropy = fit([*args, *plain]).metrics
    assert ours["val/robust_accuracy"] >= 0.80
    assert ours["val/accuracy"] >= 0.97
    assert cross_entropy["val/robust_accuracy"] < ours["val/robust_accuracy"] - 0.2
