"""The reduction of a step: the global mean, in value and gradient, on any number of ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import rank, world_size
from framework.objectives.objectives import Objectives
from framework.objectives.reduction import ReducedObjectives, reduce_objectives

ROWS, SPLIT = 8, 5


def build(inputs: Tensor, parameter: Tensor, rows: slice, fields: set[str]) -> Objectives:
    """Return two terms of a linear model on some rows; the other fields as asked for."""
    outputs = inputs[rows] @ parameter
    objectives = Objectives(predictions=outputs, per_sample={"square": outputs.square()})
    if len(outputs):
        objectives.terms["mean"] = outputs.abs().mean()
    else:
        objectives.terms["mean"] = outputs.sum() / 0.0
    objectives.weights["mean"] = 0.3
    if "sample_weight" in fields:
        objectives.sample_weight = torch.linspace(0, 2, ROWS).double()[rows]
        # a dropped sample may have an infinite loss
        infinite = torch.where(objectives.sample_weight == 0, math.inf, 0.0)
        objectives.per_sample["square"] = objectives.per_sample["square"] + infinite
    if "row_count" in fields:
        objectives.count["square"] = torch.arange(1, ROWS + 1).double()[rows]
    if "count" in fields:
        objectives.count["mean"] = torch.tensor(float(len(outputs)) * 2)
    return objectives


def nonfinite(reduced: ReducedObjectives) -> bool:
    """Return whether a term is flagged; on one process the numbers say it themselves."""
    if reduced.nonfinite is not None:
        return bool(reduced.nonfinite.any())
    return not all(v.detach().isfinite() for v in (*reduced.terms.values(), reduced.total))


def step(rows: slice, fields: set[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Return values and gradient, averaged over the ranks as DDP does it."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    reduced = reduce_objectives(build(inputs, parameter, rows, fields))
    reduced.total.backward()
    values = {**reduced.terms, "total": reduced.total}
    packed = torch.stack([v.detach() for v in values.values()])
    assert parameter.grad is not None
    for tensor in (packed, parameter.grad):
        if world_size() > 1:
            torch.distributed.all_reduce(tensor)
            tensor /= world_size()
    assert int(reduced.rows) == ROWS
    assert not nonfinite(reduced)
    return dict(zip(values, packed, strict=True)), parameter.grad


def step_on_rank(split: int, fields: set[str]) -> tuple[dict[str, Tensor], Tensor]:
    return step((slice(split), slice(split, None))[rank()], fields)


@pytest.mark.parametrize("split", [SPLIT, ROWS], ids=["uneven", "one-empty"])
@pytest.mark.parametrize(
    "fields", [set(), {"sample_weight"}, {"row_count"}, {"sample_weight", "row_count", "count"}]
)
def test_two_uneven_ranks_equal_one_process(two_ranks, split: int, fields: set[str]) -> None:
    values, gradient = step(slice(None), fields)
    for rank_values, rank_gradient in two_ranks(step_on_rank, split, fields):
        torch.testing.assert_close(rank_values, values, rtol=0, atol=1e-12)
        torch.testing.assert_close(rank_gradient, gradient, rtol=0, atol=1e-12)


LOSS = torch.tensor([1.0, 2.0, 6.0])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 3.0),
        ({"sample_weight": torch.tensor([1.0, 1.0, 0.0])}, 1.5),
        ({"sample_weight": torch.tensor([0.0, 2.0, 1.0])}, 10 / 3),
        ({"sample_weight": torch.zeros(3)}, 0.0),
        ({"count": {"a": torch.tensor(2.0)}}, 4.5),
        ({"count": {"a": torch.tensor([2.0, 0.0, 1.0])}}, 3.0),
        ({"count": {"a": torch.zeros(3)}}, 0.0),
        (
            {
                "count": {"a": torch.tensor([2.0, 0.0, 1.0])},
                "sample_weight": torch.tensor([1.0, 1.0, 0.0]),
            },
            1.5,
        ),
        ({"weights": {"a": 0.5}}, 1.5),
        ({"weights": {"a": torch.tensor(0.5)}}, 1.5),
    ],
)
def test_a_per_sample_term_by_hand(fields: dict[str, Any], expected: float) -> None:
    loss = LOSS.clone().requires_grad_()
    reduced = reduce_objectives(Objectives(per_sample={"a": loss}, **fields))
    assert reduced.total.item() == pytest.approx(expected, rel=1e-6)
    reduced.total.backward()
    assert loss.grad.isfinite().all()
    assert (loss.grad * LOSS).sum().item() == pytest.approx(expected, rel=1e-6)


def test_an_infinite_loss_that_is_dropped_gives_no_gradient() -> None:
    loss = torch.tensor([math.inf, 2.0, math.nan], requires_grad=True)
    weight = torch.tensor([0.0, 1.0, 0.0])
    reduced = reduce_objectives(Objectives(per_sample={"a": loss}, sample_weight=weight))
    reduced.total.backward()
    assert reduced.total.item() == 2.0
    assert loss.grad.tolist() == [0.0, 1.0, 0.0]
    assert not nonfinite(reduced)


def test_sample_weights_leave_scalar_terms_alone() -> None:
    objectives = Objectives(
        terms={"a": torch.tensor(4.0)}, per_sample={"b": LOSS}, sample_weight=torch.zeros(3)
    )
    assert float(reduce_objectives(objectives).total) == 4.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_rounds_the_rows_nor_overflows(dtype: torch.dtype) -> None:
    rows = torch.full((2049,), 40.0, dtype=dtype)  # the sum is beyond float16, the rows beyond both
    objectives = Objectives(
        terms={"a": torch.tensor(3.0, dtype=dtype)}, per_sample={"b": rows}, predictions=rows
    )
    assert float(reduce_objectives(objectives).total) == pytest.approx(43.0, rel=1e-6)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (Objectives(), "without any term"),
        (Objectives(terms={"a": LOSS.sum()}, per_sample={"a": LOSS}), "both"),
        (Objectives(terms={"a": LOSS}, predictions=LOSS), r"'a' has shape \(3,\)"),
        (Objectives(per_sample={"a": LOSS.sum()}, predictions=LOSS), r"not \(B,\)"),
        (Objectives(terms={"a": LOSS.sum()}), "number of rows is unknown"),
        (Objectives(terms={"a": LOSS.sum()}, predictions=LOSS, count={"a": LOSS}), "a scalar"),
        (Objectives(per_sample={"a": LOSS}, sample_weight=LOSS[:, None]), "`sample_weight` has"),
        (Objectives(per_sample={"a": LOSS}, sample_weight=LOSS[:2]), "`sample_weight` has"),
        (Objectives(per_sample={"a": LOSS}, count={"a": LOSS[:, None]}), "count has"),
    ],
)
def test_what_is_no_objective_is_refused(objectives: Objectives, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reduce_objectives(objectives)


def one_bad_rank(field: str, value: float) -> list[bool]:
    bad = torch.tensor([1.0, value if rank() == 1 else 1.0])
    objectives = Objectives(per_sample={"good": torch.ones(2), "bad": torch.ones(2)})
    if field == "per_sample":
        objectives.per_sample["bad"] = bad
    elif field == "weights":
        objectives.weights["bad"] = bad[1]
    else:
        objectives.count["bad"] = bad
    return reduce_objectives(objectives).nonfinite.tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["per_sample", "weights", "count"])
def test_a_nonfinite_number_on_one_rank_is_seen_on_both(two_ranks, field, value) -> None:
    assert two_ranks(one_bad_rank, field, value) == [[False, True]] * 2


def test_a_nan_sample_weight_is_seen() -> None:
    weight = torch.tensor([1.0, math.nan, 1.0])
    reduced = reduce_objectives(Objectives(per_sample={"a": LOSS}, sample_weight=weight))
    assert nonfinite(reduced)
