"""Information maximization: the spec's numbers, its extremes, and the global batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from framework.adaptation.bayes_refinement import bayes_refine
from framework.distributed.collectives import rank, world_size
from framework.losses import (
    ClassificationLoss,
    RegressionLoss,
    TargetClassificationMimicking,
)
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import reduce_objectives
from framework.training.terms import add_term

P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]], dtype=torch.float64
)
Q = torch.tensor(
    [[0.9, 0.5, 0.2], [0.4, 0.8, 0.5], [0.5, 0.5, 0.5], [0.1, 0.9, 0.6]], dtype=torch.float64
)


def logits_of(rows: int, classes: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return 2 * torch.randn(rows, classes, generator=generator, dtype=dtype)


# ---- the numbers of the spec --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "plain", "shifted"),
    [
        (P.log(), -0.172341, 0.926271),
        (bayes_refine(P.log(), Q.log()), -0.300251, 0.798362),
    ],
    ids=["plain", "refined"],
)
def test_the_values_of_the_spec(logits: Tensor, plain: float, shifted: float) -> None:
    loss = TargetClassificationMimicking(shifted=False)
    assert loss(logits).item() == pytest.approx(plain, abs=5.1e-7)
    assert TargetClassificationMimicking()(logits).item() == pytest.approx(shifted, abs=5.1e-7)


def test_the_gradient_of_the_spec_is_that_of_both_forms() -> None:
    for shifted in (True, False):
        logits = P.log().requires_grad_()
        loss = TargetClassificationMimicking(shifted=shifted)(logits)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0].tolist() == pytest.approx([-0.068328, 0.034000, 0.034329], abs=5.1e-7)
        assert gradient[3].tolist() == pytest.approx([-0.031927, 0.015963, 0.015963], abs=5.1e-7)
        assert gradient.sum(1).abs().max() < 1e-16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_balanced_collapsed_and_uniform_predictions(dtype: torch.dtype) -> None:
    """In between lie all others; classes that nobody is in and certain rows give no NaN."""
    loss, shifted = TargetClassificationMimicking(shifted=False), TargetClassificationMimicking()
    balanced = 1e4 * torch.eye(3, dtype=dtype)
    cases = {
        "balanced": (balanced, -1.098612),
        "balanced twice": (balanced.repeat(2, 1), -1.098612),
        "collapsed": (balanced[:1].expand(4, 3), 0.0),
        "uniform": (torch.zeros(4, 3, dtype=dtype), 0.0),
    }
    for name, (case, value) in cases.items():
        logits = case.clone().requires_grad_()
        found = loss(logits)
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.item() == pytest.approx(value, abs=5.1e-7), name
        assert shifted(case).item() == pytest.approx(value + math.log(3), abs=5.1e-7), name
        assert gradient.abs().max() < 1e-7, name


def test_it_is_the_mean_entropy_less_the_entropy_of_the_mean() -> None:
    for rows in (1, 5, 40):
        logits = logits_of(rows)
        p = logits.softmax(1)
        mean_entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
        entropy_of_mean = torch.distributions.Categorical(probs=p.mean(0)).entropy()
        found = TargetClassificationMimicking(shifted=False)(logits)
        torch.testing.assert_close(found, mean_entropy - entropy_of_mean)
        assert -math.log(4) <= found.item() <= 1e-15
    assert TargetClassificationMimicking(shifted=False)(logits_of(1)).item() == pytest.approx(
        0, abs=1e-15
    )


# ---- what it does not depend on, and its gradient -----------------------------------------------


def test_the_order_of_rows_and_classes_and_the_origin_of_logits_do_not_matter() -> None:
    loss, logits = TargetClassificationMimicking(), logits_of(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(logits[order]), loss(logits))
    torch.testing.assert_close(loss(logits[:, [2, 0, 3, 1]]), loss(logits))
    torch.testing.assert_close(loss(logits + logits_of(20, 1)), loss(logits))
    torch.testing.assert_close(loss(logits.log_softmax(1)), loss(logits))


def test_targets_are_not_looked_at() -> None:
    loss, logits = TargetClassificationMimicking(), logits_of(6)
    assert torch.equal(loss(logits, torch.full((6,), -1)), loss(logits))
    with pytest.raises(ValueError, match="6 rows of predictions but 5 of targets"):
        loss(logits, torch.zeros(5))


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(
        TargetClassificationMimicking(), (logits_of(6).requires_grad_(),)
    )
    assert torch.autograd.gradgradcheck(
        TargetClassificationMimicking(), (logits_of(3).requires_grad_(),)
    )


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, scale: float) -> None:
    half = (scale * logits_of(16)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = TargetClassificationMimicking()(half)
    assert found.dtype == torch.float32
    assert torch.equal(found, TargetClassificationMimicking()(half.float()))
    found.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_float32_is_float64_rounded(scale: float) -> None:
    logits = (scale * logits_of(500, 65)).float()
    single, exact = (TargetClassificationMimicking()(x).item() for x in (logits, logits.double()))
    assert single == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("shifted", [True, False])
def test_no_row_gives_a_zero_that_reaches_the_parameters(shifted: bool) -> None:
    layer = torch.nn.Linear(4, 3)
    loss = TargetClassificationMimicking(shifted)(layer(torch.empty(0, 4)))
    loss.backward()
    assert loss == 0
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes logits of shape \(B, K\) with K >= 2"):
        TargetClassificationMimicking()(torch.zeros(shape))


def test_it_is_not_offered_where_targets_are_to_be_learned() -> None:
    assert not issubclass(TargetClassificationMimicking, (ClassificationLoss, RegressionLoss))


# ---- two ranks ----------------------------------------------------------------------------------


def step(rows: int, first: int) -> dict[str, Tensor]:
    """Return this rank's value and gradient; rank 0 holds the ``first`` of the rows."""
    part = slice(rows) if world_size() == 1 else (slice(first), slice(first, rows))[rank()]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    inputs = torch.randn(rows, 6, generator=generator, dtype=torch.float64)[part]
    logits = inputs @ weight
    objectives = Objectives(predictions=logits)
    add_term(objectives, "mimicking", TargetClassificationMimicking(), logits, logits)
    total = reduce_objectives(objectives).total
    return {"value": total.detach(), "gradient": torch.autograd.grad(total, weight)[0]}


@pytest.mark.parametrize(("rows", "first"), [(10, 5), (11, 8), (11, 11), (11, 0), (0, 0)])
def test_two_ranks_equal_one_process(rows: int, first: int, two_ranks: Callable) -> None:
    one = step(rows, first)
    ranks = two_ranks(step, rows, first)
    assert (one["gradient"].abs().max() > 1e-2) == (rows > 0)
    assert torch.equal(ranks[0]["value"], ranks[1]["value"])
    for key in ("value", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-14)


def test_a_class_that_is_ruled_out_counts_as_no_probability() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [-1.0, -1.0]], dtype=torch.float64)
    logits.requires_grad_()
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    marginal = p.mean(0)
    expected = (marginal * marginal.log()).sum() - torch.tensor(0.5).double() * math.log(0.5)
    value = TargetClassificationMimicking(shifted=False)(logits)
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-15)
    value.backward()
    assert logits.grad[1].isfinite().all()


def test_the_shift_keeps_the_digits_of_double_precision() -> None:
    logits = torch.zeros(3, 3, dtype=torch.float64)
    value = TargetClassificationMimicking()(logits)
    assert float(value) == pytest.approx(math.log(3), abs=1e-15)
