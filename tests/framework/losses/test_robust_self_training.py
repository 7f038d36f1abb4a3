"""Robust self-training: the numbers of the linear case, its limits, and two ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from framework.attacks.pgd import PGDAttack
from framework.gradients import EPO, CombinedStep
from framework.losses import (
    CompSumLoss,
    EnsLoss,
    RobustSelfTrainingLoss,
    SmoothAdversarialCompSumLoss,
    wasserstein_robust_loss,
)
from framework.objectives.errors import IncompatibleError
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.training.terms import add_term

X = torch.tensor(
    [[1.0, 1.0], [0.2, 0.1], [-0.5, 0.2], [2.0, -1.0], [0.1, 0.1], [-1.0, 0.5], [0.0, 0.3]],
    dtype=torch.float64,
)
LABEL = torch.tensor([1, 1, 1, 0, -100, -100, -100])


def linear() -> nn.Linear:
    layer = nn.Linear(2, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.3, -0.4], [0.3, 0.4]]))
        layer.bias.zero_()
    return layer


def ramp(**options: Any) -> RobustSelfTrainingLoss:
    return RobustSelfTrainingLoss(inner="closed_form_linear", cost="l2", **options)


def value(loss: nn.Module, model: Callable, x: Tensor, label: Tensor, epoch: int = 0) -> Tensor:
    return loss(model(x), label, inputs=x, forward=model, epoch=epoch)


def float_of(x: Tensor) -> float:
    return float(x.detach())


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()


def test_the_worked_total():
    assert float_of(value(ramp(lam=0.5), linear(), X, LABEL)) == pytest.approx(1.103333, abs=1e-6)
    phi = value(ramp(lam=0.5, reduction="none"), linear(), X, LABEL)
    expected = [0.0, 0.8, 1.0, 1.0, *(0.5 * 4 / 3 * hat for hat in (0.86, 0.8, 0.76))]
    torch.testing.assert_close(phi, torch.tensor(expected).double(), rtol=0, atol=1e-6)
    assert float_of(phi.sum()) / 4 == pytest.approx(1.103333, abs=1e-6)


def test_limits_of_the_prices():
    always = value(ramp(gamma=1e-12, gamma_u=1e-12, lam=0.5), linear(), X, LABEL)
    assert float_of(always) == pytest.approx(1.5)
    errors = value(ramp(gamma=1e12, gamma_u=1e12, lam=0.5), linear(), X, LABEL)
    assert float_of(errors) == pytest.approx(0.5)  # two of four labels; pseudo-labels have no error


def test_without_lam_it_is_the_ramp_loss_of_the_labels():
    alone = wasserstein_robust_loss(
        linear(), X[:4], LABEL[:4], 1.0, inner="closed_form_linear", cost="l2"
    ).mean()
    for loss in (ramp(lam=0.0), ramp(lam=2.0, warmup_epochs=1), ramp(lam=2.0).eval()):
        assert float_of(value(loss, linear(), X, LABEL)) == pytest.approx(float_of(alone))
    assert (
        float_of(value(ramp(lam=2.0, warmup_epochs=1), linear(), X, LABEL, 1)) > float_of(alone) + 1
    )


@pytest.mark.parametrize("cost", ["half_l2sq", "l2sq"])
def test_the_ascent_is_the_robust_loss_of_each_part(cost):
    model = network()
    loss = RobustSelfTrainingLoss(gamma=0.5, gamma_u=2.0, lam=0.3, steps=4, cost=cost)
    pseudo = model(X[4:]).argmax(1)
    parts = [
        wasserstein_robust_loss(model, x, y, gamma, cost=cost, steps=4).mean()
        for x, y, gamma in ((X[:4], LABEL[:4], 0.5), (X[4:], pseudo, 2.0))
    ]
    total, expected = value(loss, model, X, LABEL), parts[0] + 0.3 * parts[1]
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    found, wanted = (torch.autograd.grad(v, list(model.parameters())) for v in (total, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_no_step_is_plain_self_training_on_the_base_loss():
    model, base = network(), CompSumLoss(1.7)
    loss = RobustSelfTrainingLoss(base, lam=0.3, steps=0)
    labels = LABEL.where(LABEL >= 0, model(X).argmax(1))
    values = CompSumLoss(1.7, reduction="none")(model(X), labels)
    expected = values[:4].mean() + 0.3 * values[4:].mean()
    torch.testing.assert_close(value(loss, model, X, LABEL), expected)
    evaluated = value(loss.eval(), model, X, LABEL)
    torch.testing.assert_close(evaluated, values[:4].mean())


@pytest.mark.parametrize("steps", [0, 3])
def test_parts_without_rows_count_nothing(steps):
    model, loss = network(), RobustSelfTrainingLoss(lam=0.5, steps=steps)
    labeled = value(RobustSelfTrainingLoss(lam=0.0, steps=steps), model, X[:4], LABEL[:4])
    torch.testing.assert_close(value(loss, model, X[:4], LABEL[:4]), labeled)
    unlabeled = value(loss, model, X[4:], LABEL[4:])
    together = value(loss, model, X, LABEL)
    torch.testing.assert_close(labeled + unlabeled, together)
    empty = value(loss, model, X[:0], LABEL[:0])
    assert float_of(empty) == 0
    empty.backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_pseudo_labels_are_those_of_evaluation_mode():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()
    with torch.no_grad():
        model[1].running_mean.fill_(5.0)
    assert (model.eval()(X).argmax(1) != model.train()(X).argmax(1)).any()
    loss = RobustSelfTrainingLoss(lam=1.0, steps=0, reduction="none")
    labels = LABEL.where(LABEL >= 0, model.eval()(X).argmax(1))
    model.train()
    expected = CompSumLoss(reduction="none")(model(X), labels)
    found = value(loss, model, X, LABEL)
    torch.testing.assert_close(found[4:] * 3 / 4, expected[4:])
    assert model.training


@pytest.mark.parametrize("inner", ["ascent", "closed_form_linear"])
def test_a_model_in_half_precision(inner):
    model = linear().bfloat16()
    loss = RobustSelfTrainingLoss(inner=inner, gamma=2.0, steps=3)
    exact = value(loss, linear(), X, LABEL)
    found = value(loss, model, X.bfloat16(), LABEL)
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=0.03)
    found.backward()
    assert model.weight.grad.dtype == torch.bfloat16
    assert model.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        RobustSelfTrainingLoss(steps=2),
        SmoothAdversarialCompSumLoss(attack=PGDAttack(eps=0.1, steps=2, clamp=None)),
    ],
)
def test_gradients_at_the_features_are_refused(loss):
    """Its predictions at moved inputs do not come from the features of the step."""
    torch.manual_seed(0)
    body, head = nn.Linear(2, 4), nn.Linear(4, 2)
    model, x = nn.Sequential(body, nn.Tanh(), head), X.float()
    features = model[:2](x)
    available = {"inputs": x, "forward": model, "epoch": 0, "step": 0}
    robust = loss(head(features), LABEL, **{name: available[name] for name in loss.needs[:3]})
    terms = {"robust": robust, "size": features.square().mean()}
    combined = CombinedStep(EPO(preference=[1.0, 1.0], scope="representation"))
    with pytest.raises(IncompatibleError, match="use scope='exact'"):
        combined(terms, model.parameters(), body.parameters(), features=features)
    combined = CombinedStep(EPO(preference=[1.0, 1.0]))
    combined(terms, model.parameters(), body.parameters()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_refuses_what_does_not_fit():
    for options, words in (
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"lam": -1.0}, "lam must be at least 0"),
        ({"cost": "l2"}, "cost='l2' has no ascent"),
        ({"inner": "sup"}, "inner must be one of ascent, closed_form_linear"),
        ({"base": SmoothAdversarialCompSumLoss()}, "needs inputs, forward, step"),
        ({"base": EnsLoss()}, "EnsLoss needs"),
    ):
        with pytest.raises(ValueError, match=words):
            RobustSelfTrainingLoss(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the closed form is that of a linear model"):
        value(ramp(), lambda x: (5 * x).tanh() @ torch.eye(2).double(), X, LABEL)
    with pytest.raises(ValueError, match="is defined for hard labels only"):
        value(RobustSelfTrainingLoss(), linear(), X, torch.eye(2)[[0] * 7].double())


def parts(inner: str, first: int, labels: list[int]) -> dict[str, Tensor]:
    """Return this rank's total and gradient; rank 0 has the ``first`` rows."""
    alone = not dist.is_initialized()
    rows = slice(None) if alone else slice(first) if dist.get_rank() == 0 else slice(first, None)
    model = linear() if inner == "closed_form_linear" else network()
    loss = RobustSelfTrainingLoss(gamma=0.4, gamma_u=0.7, lam=0.3, inner=inner, steps=3)
    x, label = X[rows], torch.tensor(labels)[rows]
    objectives = Objectives(predictions=model(x), targets=label)
    add_term(objectives, "loss", loss, model(x), label, inputs=x, forward=model, epoch=0)
    total = reduce_objectives(objectives).total
    plain = loss(model(x), label, inputs=x, forward=model, epoch=0)
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(total, list(model.parameters()))]
    )
    return {"total": total.detach(), "plain": plain.detach(), "gradient": gradient}


@pytest.mark.parametrize("inner", ["ascent", "closed_form_linear"])
@pytest.mark.parametrize(
    ("first", "labels"),
    [
        (3, [1, 1, 1, 0, -100, -100, -100]),
        (5, [1, -100, -100, 0, -100, 1, -100]),
        (7, [1, -100, -100, 0, -100, 1, -100]),
        (3, [-100] * 7),
        (3, [1, 0, 0, 1, 1, 0, 1]),
    ],
)
def test_two_ranks_equal_one(inner, first, labels, two_ranks):
    one = parts(inner, first, labels)
    ranks = two_ranks(parts, inner, first, labels)
    torch.testing.assert_close(one["total"], one["plain"])
    assert one["gradient"].abs().max() > 1e-3
    for key in ("total", "plain", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-12)
