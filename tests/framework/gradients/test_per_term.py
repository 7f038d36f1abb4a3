"""Gradients per term, their inner products, and the way into the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import rank, world_size
from framework.gradients.inject_gradients import inject_gradients
from framework.gradients.per_term import (
    GlobalGradients,
    feature_products,
    global_gradients,
    gradients_of,
    gram_matrix,
)

INPUTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GUIDE = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def model() -> nn.ParameterDict:
    return nn.ParameterDict(
        {
            "both": nn.Parameter(torch.ones(3, 2, dtype=torch.float64)),
            "one": nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64)),
            "none": nn.Parameter(torch.ones((), dtype=torch.float64)),
        }
    )


def terms_of(outputs: Tensor, parameters: nn.ParameterDict) -> dict[str, Tensor]:
    """Return two means over the rows of 8, and a constant."""
    share = world_size() / 8
    return {
        "a": outputs.square().sum() * share,
        "b": (outputs * parameters["one"]).tanh().sum() * share,
        "constant": torch.ones((), dtype=torch.float64),
    }


def own(rows: Tensor) -> Tensor:
    return rows if world_size() == 1 else (rows[:3], rows[3:])[rank()]


def matrix() -> GlobalGradients:
    parameters = model()
    values = list(parameters.values())
    terms = terms_of(own(INPUTS) @ parameters["both"], parameters)
    rows = [gradients_of(term, values) for term in terms.values()]
    return global_gradients(rows, list(terms.values()), values)


def test_each_row_is_the_gradient_of_a_term() -> None:
    rows, gram, values, reached = matrix()
    assert rows.shape == (3, 9)
    torch.testing.assert_close(gram, rows @ rows.T)
    for number, name in enumerate(("a", "b")):
        parameters = model()
        term = terms_of(INPUTS @ parameters["both"], parameters)[name]
        term.backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters.values()]
        torch.testing.assert_close(rows[number], torch.cat([g.flatten() for g in grads]))
        torch.testing.assert_close(values[number], term.detach())
    assert not rows[2].any()
    assert list(model()) == ["both", "none", "one"]
    assert reached.tolist() == [[True, False, False], [True, False, True], [False] * 3]


def test_every_rank_has_the_matrix_of_the_global_batch(two_ranks) -> None:
    first, second = two_ranks(matrix)
    for left, right, whole in zip(first, second, matrix(), strict=True):
        assert torch.equal(left, right)
        torch.testing.assert_close(left, whole, rtol=0, atol=1e-12)


def products() -> tuple[Tensor, Tensor | None, Tensor]:
    parameters = model()
    features = own(INPUTS) @ parameters["both"]
    terms = terms_of(features, parameters)
    rows = [gradients_of(term, [features])[0] for term in terms.values()]
    held_out = own(GUIDE).clone().requires_grad_()
    guide = held_out.pow(3).sum() * world_size() / 5
    (shift,) = gradients_of(guide, [held_out])
    return feature_products(rows, shift, [*terms.values(), guide], features)


def test_products_at_the_features_are_those_of_all_rows() -> None:
    gram, guide, values = products()
    features = (INPUTS @ model()["both"]).detach().requires_grad_()
    terms = terms_of(features, model())
    rows = [torch.autograd.grad(terms[name], features)[0] for name in ("a", "b")]
    expected = torch.stack([row.flatten() for row in rows])
    torch.testing.assert_close(gram[:2, :2], expected @ expected.T)
    assert not gram[2].any()
    shift = 3 * GUIDE.square().sum(0) / 5
    assert guide is not None
    torch.testing.assert_close(guide[:2], torch.stack([row.sum(0) for row in rows]) @ shift)
    torch.testing.assert_close(values[3], GUIDE.pow(3).sum() / 5)


def test_products_at_the_features_are_the_same_on_two_ranks(two_ranks) -> None:
    first, second = two_ranks(products)
    for left, right, whole in zip(first, second, products(), strict=True):
        assert torch.equal(left, right)
        torch.testing.assert_close(left, whole, rtol=0, atol=1e-12)


def test_the_gram_matrix_is_summed_in_parts(monkeypatch) -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    expected = rows.double() @ rows.double().T
    monkeypatch.setattr("framework.gradients.per_term.COLUMNS", 7)
    found = gram_matrix(rows)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_given_gradients_go_backward(factor) -> None:
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3))
    given = [torch.arange(4.0).view(2, 2), torch.tensor([3.0, -1.0, 0.5])]
    value = inject_gradients(torch.tensor(7.0), [first, second], given)
    assert float(value.detach()) == 7.0
    (factor * value).backward()
    assert torch.equal(first.grad, factor * given[0])
    assert torch.equal(second.grad, factor * given[1])
