"""The discriminators of every class: the spec's numbers, who trains which, and uneven ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.adaptation.bayes_refinement import bayes_refine
from framework.adaptation.class_discriminators import class_discriminator_loss
from framework.distributed.collectives import rank, world_size

P = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]], dtype=torch.float64
)
Q = torch.tensor(
    [[0.9, 0.5, 0.2], [0.4, 0.8, 0.5], [0.5, 0.5, 0.5], [0.1, 0.9, 0.6]], dtype=torch.float64
)
SOURCE_Q = torch.tensor([[0.2, 0.4, 0.3], [0.6, 0.5, 0.1]], dtype=torch.float64)


def both() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the spec's two source and four target rows as one batch."""
    label, domain = torch.tensor([0, 2, -1, -1, -1, -1]), torch.tensor([0, 0, 1, 1, 1, 1])
    refined = torch.cat([torch.full_like(SOURCE_Q, -1.0), bayes_refine(P.log(), Q.log())])
    return torch.cat([SOURCE_Q, Q]).logit(), label, domain, refined


def test_the_numbers_of_the_spec() -> None:
    logits, label, domain, refined = both()
    for rows, value in (
        (slice(2), 0.164252),
        (slice(2, 6), 0.448425),
        (slice(6), 0.164252 + 0.448425),
    ):
        found = class_discriminator_loss(logits[rows], label[rows], domain[rows], refined[rows])
        assert found.item() == pytest.approx(value, abs=1.1e-6)


def test_a_source_row_trains_its_class_and_a_target_row_all_by_their_probability() -> None:
    logits, label, domain, refined = both()
    logits = logits.requires_grad_()
    loss = class_discriminator_loss(logits, label, domain, refined)
    (gradient,) = torch.autograd.grad(loss, logits)
    q, rho = logits.detach().sigmoid(), refined.exp()
    expected = torch.zeros_like(q)
    expected[0, 0], expected[1, 2] = q[0, 0] / 2, q[1, 2] / 2
    expected[2:] = -rho[2:] * (1 - q[2:]) / 4
    torch.testing.assert_close(gradient, expected)


def test_it_is_the_weighted_cross_entropy_of_the_domains() -> None:
    logits, label, domain, refined = both()
    weight = torch.where((domain == 0)[:, None], F.one_hot(label.clamp(min=0), 3), refined.exp())
    is_target = domain[:, None].expand(6, 3).double()
    values = F.binary_cross_entropy_with_logits(logits, is_target, weight, reduction="none").sum(1)
    expected = values[:2].mean() + values[2:].mean()
    torch.testing.assert_close(class_discriminator_loss(logits, label, domain, refined), expected)


def test_what_is_not_looked_at() -> None:
    logits, label, domain, refined = both()
    expected = class_discriminator_loss(logits, label, domain, refined)
    changed = refined.clone().requires_grad_()
    with torch.no_grad():
        changed[:2] = 7.0
    other = label.clone()
    other[2:] = 1
    variable = logits.clone().requires_grad_()
    loss = class_discriminator_loss(variable, other, domain, changed)
    assert torch.equal(loss, expected)
    loss.backward()
    assert changed.grad is None
    assert variable.grad is not None
    assert variable.grad.isfinite().all()


def test_a_source_row_of_unknown_label_does_not_count() -> None:
    logits, label, domain, refined = both()
    label[0] = -1
    rows = slice(1, 6)
    torch.testing.assert_close(
        class_discriminator_loss(logits, label, domain, refined),
        class_discriminator_loss(logits[rows], label[rows], domain[rows], refined[rows]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, label, domain, refined = both()
    half = (1e4 * logits).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        found = class_discriminator_loss(half, label, domain, refined.to(dtype))
    assert found.dtype == torch.float32
    expected = class_discriminator_loss(half.float(), label, domain, refined.to(dtype).float())
    assert torch.equal(found, expected)
    assert found.isfinite()
    found.backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("rows", [slice(0), slice(2), slice(2, 6)])
def test_a_domain_without_rows_gives_a_zero_that_reaches_the_parameters(rows: slice) -> None:
    logits, label, domain, refined = (x[rows] for x in both())
    layer = torch.nn.Linear(3, 3).double()
    loss = class_discriminator_loss(layer(logits), label, domain, refined)
    loss.backward()
    assert layer.weight.grad is not None
    assert bool(layer.weight.grad.any()) == (len(logits) > 0)
    assert (loss.item() > 0) == (len(logits) > 0)


@pytest.mark.parametrize("place", range(4))
def test_other_shapes_are_refused(place: int) -> None:
    arguments = list(both())
    arguments[place] = arguments[place][:5]
    with pytest.raises(ValueError, match=r"takes logits and refined \(B, K\), label and domain"):
        class_discriminator_loss(*arguments)


# ---- two ranks ----------------------------------------------------------------------------------


def step(first: int, order: list[int]) -> dict[str, Tensor]:
    """Return this rank's value and gradient; rank 0 holds the ``first`` of six rows."""
    part = slice(6) if world_size() == 1 else (slice(first), slice(first, 6))[rank()]
    inputs, label, domain, refined = (x[order][part] for x in both())
    weight = torch.eye(3, dtype=torch.float64).requires_grad_()
    loss = class_discriminator_loss(inputs @ weight, label, domain, refined)
    return {"value": loss.detach(), "gradient": torch.autograd.grad(loss, weight)[0]}


@pytest.mark.parametrize("first", [0, 2, 3, 6])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [2, 0, 3, 4, 1, 5]])
def test_two_ranks_equal_one_process(first: int, order: list[int], two_ranks: Callable) -> None:
    """Also where one has all rows, or all rows of a domain."""
    one = step(first, order)
    ranks = two_ranks(step, first, order)
    for key in ("value", "gradient"):  # averaged as DDP does
        average = (ranks[0][key] + ranks[1][key]) / 2
        torch.testing.assert_close(average, one[key], rtol=0, atol=1e-14)
