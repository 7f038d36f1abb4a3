"""What every classification loss must do, whichever it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import framework.losses
from framework.attacks.pgd import PGDAttack
from framework.losses import (
    AggregateResponseLoss,
    ALDRLoss,
    ClassificationLoss,
    CompSumLoss,
    EnsLoss,
    LDRLoss,
    NormalizedLogisticLoss,
    RobustSelfTrainingLoss,
    SmoothAdversarialCompSumLoss,
)
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.training.terms import add_term

ATTACK = PGDAttack(eps=0.1, steps=2, clamp=None)
BUILD: dict[str, Callable[..., ClassificationLoss]] = {
    "comp_sum_0": lambda **kw: CompSumLoss(0.0, **kw),
    "comp_sum_1": lambda **kw: CompSumLoss(1.0, label_smoothing=0.1, **kw),
    "comp_sum_1.7": lambda **kw: CompSumLoss(1.7, **kw),
    "ldr": lambda **kw: LDRLoss(10.0, **kw),
    "ldr_l1": lambda **kw: LDRLoss(10.0, normalize="l1", **kw),
    "ldr_plain": lambda **kw: LDRLoss(normalize=None, **kw),
    "aldr": lambda **kw: ALDRLoss(10.0, **kw),
    "aldr_plain": lambda **kw: ALDRLoss(normalize=None, **kw),
    "ensloss": EnsLoss,
    "ensloss_ovr": lambda **kw: EnsLoss(0.5, multiclass="ovr", **kw),
    "normalized_logistic": NormalizedLogisticLoss,
    "aggregate": lambda **kw: AggregateResponseLoss("ce", rho=0.3, **kw),
    "smooth_adversarial": lambda **kw: SmoothAdversarialCompSumLoss(1.4, attack=ATTACK, **kw),
    # unlabeled rows count and are not ignored, unless their weight is 0
    "robust_self_training": lambda **kw: RobustSelfTrainingLoss(lam=0.0, steps=0, **kw),
}


def exported() -> list[type[ClassificationLoss]]:
    kinds = [getattr(framework.losses, name) for name in framework.losses.__all__]
    return [k for k in kinds if isinstance(k, type) and issubclass(k, ClassificationLoss)]


# a loss that is not built above is tested with its defaults
BUILT = {ClassificationLoss, *(type(build()) for build in BUILD.values())}
BUILD |= {kind.__name__: kind for kind in exported() if kind not in BUILT}
NOISY = {"smooth_adversarial", "ensloss_ovr"}  # noise belongs to a row's place or to a class
SCORES = {"ensloss", "ensloss_ovr", "normalized_logistic"}  # two classes may have one score
every_loss = pytest.mark.parametrize("name", BUILD)


def build(name: str, num_classes: int, num_samples: int = 64, **kwargs: str) -> ClassificationLoss:
    loss = BUILD[name](**kwargs)
    loss.setup(num_samples, num_classes, torch.device("cpu"))
    return loss


def needed(loss: ClassificationLoss, index: Tensor, inputs: Tensor, forward: Any) -> dict[str, Any]:
    """Return what ``loss`` asks for beside predictions, which are ``forward(inputs)``."""
    available = {
        "index": index,
        "group": index,  # a bag for every row
        "epoch": 0,
        "step": 3,
        "micro_batch": 0,
        "inputs": inputs,
        "forward": forward,
    }
    return {name: available[name] for name in loss.needs}


def evaluate(loss: ClassificationLoss, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
    """Return the loss of logits that are the network's very inputs."""
    return loss(logits, labels, **needed(loss, index, logits.detach(), torch.nn.Identity()))


def batch(rows: int, classes: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + classes)
    logits = scale * torch.randn(rows, classes, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    return logits.requires_grad_(), labels, torch.arange(rows)


@every_loss
@pytest.mark.parametrize(("rows", "classes"), [(1, 3), (5, 2), (5, 1000)])
def test_reductions_agree(name: str, rows: int, classes: int) -> None:
    logits, labels, index = batch(rows, classes)
    values, total, mean = (
        evaluate(build(name, classes, reduction=reduction), logits, labels, index)
        for reduction in ("none", "sum", "mean")
    )
    assert values.shape == (rows,)
    assert values.isfinite().all()
    torch.testing.assert_close(total, values.sum())
    torch.testing.assert_close(mean, values.mean())
    (gradient,) = torch.autograd.grad(mean, logits)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@every_loss
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_an_empty_batch_gives_a_zero_that_reaches_the_parameters(name: str, reduction: str) -> None:
    layer = torch.nn.Linear(4, 3)
    empty = torch.empty(0, dtype=torch.int64)
    value = evaluate(build(name, 3, reduction=reduction), layer(torch.empty(0, 4)), empty, empty)
    assert value.sum() == 0
    value.sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
def test_half_precision_logits_give_the_loss_of_float32(
    name: str, dtype: torch.dtype, scale: float
) -> None:
    logits, labels, index = batch(16, 5, scale)
    half = logits.detach().to(dtype).requires_grad_()
    single = half.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = evaluate(build(name, 5), half, labels, index)
    expected = evaluate(build(name, 5), single, labels, index)
    assert value.dtype == torch.float32
    assert value.isfinite()
    if name != "smooth_adversarial":  # half precision rounds the attack on large inputs away
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
    value.backward()
    expected.backward()
    assert single.grad.isfinite().all()
    assert half.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_float32_is_float64_rounded(name: str, scale: float) -> None:
    logits, labels, index = batch(16, 5, scale)
    value = evaluate(build(name, 5), logits, labels, index)
    exact = evaluate(build(name, 5), logits.double(), labels, index)
    assert value.item() == pytest.approx(exact.item(), rel=1e-4, abs=1e-5)


without_noise = pytest.mark.parametrize("name", sorted(set(BUILD) - NOISY))


@without_noise
def test_the_order_of_the_rows_does_not_matter(name: str) -> None:
    logits, labels, index = batch(8, 5)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    values = evaluate(build(name, 5, reduction="none"), logits, labels, index)
    permuted = evaluate(
        build(name, 5, reduction="none"), logits[order], labels[order], index[order]
    )
    torch.testing.assert_close(permuted, values[order])


@without_noise
def test_the_class_numbers_do_not_matter(name: str) -> None:
    logits, labels, index = batch(8, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    values = evaluate(build(name, 5, reduction="none"), logits, labels, index)
    renamed = evaluate(
        build(name, 5, reduction="none"), logits[:, order], order.argsort()[labels], index
    )
    torch.testing.assert_close(renamed, values)


@every_loss
def test_refuses_what_it_is_not_defined_for(name: str) -> None:
    loss = build(name, 3)
    logits, labels, index = batch(4, 3)
    scores = [] if name in SCORES else [logits[:, 0], logits[:, :1]]
    for bad in (*scores, logits[:, :, None]):
        with pytest.raises(ValueError, match=r"takes logits of shape \(B, K\)"):
            evaluate(loss, bad, labels, index)
    for bad in (labels[:, None], labels.float(), logits.detach()[:, :2].softmax(1)):
        with pytest.raises(ValueError, match="got torch"):
            evaluate(loss, logits, bad, index)
    with pytest.raises(ValueError, match="4 rows of predictions but 3 of targets"):
        evaluate(loss, logits, labels[:3], index)


@every_loss
def test_soft_targets_are_taken_or_refused_as_declared(name: str) -> None:
    loss = build(name, 3)
    logits, labels, index = batch(4, 3)
    soft = torch.nn.functional.one_hot(labels, 3).float()
    if loss.soft_targets:
        torch.testing.assert_close(
            evaluate(loss, logits, soft, index), evaluate(loss, logits, labels, index)
        )
    else:
        with pytest.raises(ValueError, match="is defined for hard labels only"):
            evaluate(loss, logits, soft, index)


@every_loss
def test_a_row_to_be_ignored_is_as_good_as_absent(name: str) -> None:
    logits, labels, index = batch(8, 5)
    ignored = torch.tensor([False, True, False, False, True, False, True, False])
    marked = labels.masked_fill(ignored, -100)
    loss = build(name, 5, reduction="none")
    values = evaluate(loss, logits, marked, index)
    assert not values[ignored].any()
    total, mean = (
        evaluate(build(name, 5, reduction=reduction), logits, marked, index)
        for reduction in ("sum", "mean")
    )
    torch.testing.assert_close(total, values.sum())
    torch.testing.assert_close(mean, values.sum() / 5)
    (gradient,) = torch.autograd.grad(mean, logits)
    assert not gradient[ignored].any()
    assert gradient[~ignored].abs().max() > 0
    # what was predicted for it does not matter to the others
    other = logits.detach().masked_scatter(ignored[:, None], 3 * torch.randn(15))
    if name not in NOISY:  # noise that belongs to a row's place
        found = evaluate(build(name, 5, reduction="none"), other, marked, index)
        torch.testing.assert_close(found[~ignored], values.detach()[~ignored])
    missing = logits.detach().masked_fill(ignored[:, None], torch.nan).requires_grad_()
    found = evaluate(build(name, 5), missing, marked, index)
    if name not in NOISY:
        torch.testing.assert_close(found, mean)
    (gradient,) = torch.autograd.grad(found, missing)
    assert gradient.isfinite().all()
    assert not gradient[ignored].any()
    if name not in {*NOISY, "ensloss", "EnsLoss"}:
        alone = evaluate(
            build(name, 5, reduction="none"), logits[~ignored], labels[~ignored], index[~ignored]
        )
        torch.testing.assert_close(alone, values[~ignored])


@every_loss
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_but_rows_to_be_ignored_gives_a_zero(name: str, reduction: str) -> None:
    logits, labels, index = batch(4, 3)
    marked = torch.full_like(labels, -100)
    value = evaluate(build(name, 3, reduction=reduction), logits, marked, index).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    assert value == 0
    assert not gradient.any()


@every_loss
def test_the_mean_of_a_term_leaves_out_what_is_to_be_ignored(name: str) -> None:
    logits, labels, index = batch(6, 3)
    marked = labels.masked_fill(torch.arange(6) < 2, -100)
    objectives = Objectives(predictions=logits, targets=marked, index=index)
    available = needed(build(name, 3), index, logits.detach(), torch.nn.Identity())
    add_term(objectives, "loss", build(name, 3), logits, marked, **available)
    expected = evaluate(build(name, 3), logits, marked, index)
    torch.testing.assert_close(reduce_objectives(objectives).total, expected)


@pytest.mark.parametrize("kind", [CompSumLoss, AggregateResponseLoss])
def test_which_losses_take_soft_targets(kind: type[ClassificationLoss]) -> None:
    assert kind.soft_targets


@pytest.mark.parametrize("kind", [EnsLoss, NormalizedLogisticLoss])
def test_which_losses_cannot_be_monitored(kind: type[ClassificationLoss]) -> None:
    assert not kind.monitorable


@pytest.mark.parametrize("name", [name for name in BUILD if not name.startswith("aldr")])
def test_gradcheck_in_evaluation(name: str) -> None:
    """In training, where some follow another rule, the losses' own tests check the gradient.

    ALDR's temperature, and so its gradient, follows its own rule in evaluation as well.
    """
    loss = build(name, 4).eval()
    logits, labels, index = batch(5, 4)
    logits = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: evaluate(loss, f, labels, index), (logits,))


# ---- two ranks --------------------------------------------------------------------------------

WEIGHTS = {
    "uneven": [1.0, 0.5, 0.0, 2.0, 1.0, 0.3, 3.0, 1.0],
    "rank_0_masked": [0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 3.0, 1.0],
    "all_masked": [0.0] * 8,
}


def two_steps(name: str, sample_weight: list[float], first: int = 5) -> dict[str, Tensor]:
    """Return this rank's value and gradient at the second of two steps; rank 0 has `first` rows."""
    alone = not dist.is_initialized()
    rows = slice(8) if alone else slice(first) if dist.get_rank() == 0 else slice(first, 8)
    loss = build(name, 4, num_samples=8, reduction="none")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()

    def forward(x: Tensor) -> Tensor:
        return x @ weight.T

    for step in range(2):
        # in the second step each rank has samples that the other one had in the first
        index = torch.arange(8).roll(4 * step)[rows]
        inputs = torch.randn(8, 6, generator=generator, dtype=torch.float64)[rows]
        labels = torch.randint(4, (8,), generator=generator)[rows]
        keywords = needed(loss, index, inputs, forward)
        objectives = Objectives(
            per_sample={"loss": loss(forward(inputs), labels, **keywords)},
            sample_weight=torch.tensor(sample_weight).double()[rows],
            index=index,
        )
        total = reduce_objectives(objectives).total
    result = {"value": total.detach(), "gradient": torch.autograd.grad(total, weight)[0]}
    if isinstance(loss, ALDRLoss):
        result["temperature"] = loss.temperature.read(torch.arange(8))
    return result


@every_loss
@pytest.mark.parametrize(
    ("weights", "first"),
    [("uneven", 5), ("uneven", 8), ("uneven", 0), ("rank_0_masked", 5), ("all_masked", 5)],
)
def test_two_uneven_ranks_equal_one_process(
    name: str, weights: str, first: int, two_ranks: Callable
) -> None:
    """Also where a rank has no rows at all."""
    one = two_steps(name, WEIGHTS[weights])
    ranks = two_ranks(two_steps, name, WEIGHTS[weights], first)
    assert (one["gradient"].abs().max() > 1e-3) == (weights != "all_masked")
    for key in ("value", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-12)
    if "temperature" in one:
        assert torch.equal(ranks[0]["temperature"], ranks[1]["temperature"])
        torch.testing.assert_close(ranks[0]["temperature"], one["temperature"])
        assert (one["temperature"] < one["temperature"].max()).any()
