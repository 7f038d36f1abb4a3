"""Gradients per term, and the way back into the parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.distributed import rank, world_size
from framework.gradients import WeightedSum
from framework.gradients.per_term import assign_gradient, per_term_gradients

INPUTS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model() -> nn.ParameterDict:
    return nn.ParameterDict(
        {
            "both": nn.Parameter(torch.ones(3, 2, dtype=torch.float64)),
            "one": nn.Parameter(torch.full((2,), 0.5, dtype=torch.float64)),
            "none": nn.Parameter(torch.ones((), dtype=torch.float64)),
        }
    )


def terms(parameters: nn.ParameterDict, inputs: Tensor) -> dict[str, Tensor]:
    """Return two means over the rows of 8, and a constant."""
    outputs = inputs @ parameters["both"]
    share = world_size() / 8
    return {
        "a": outputs.square().sum() * share,
        "b": (outputs * parameters["one"]).tanh().sum() * share,
        "constant": torch.ones((), dtype=torch.float64),
    }


def matrix() -> Tensor:
    parameters = model()
    inputs = INPUTS if world_size() == 1 else (INPUTS[:5], INPUTS[5:])[rank()]
    return per_term_gradients(terms(parameters, inputs), list(parameters.values()))


def test_each_row_is_the_gradient_of_a_term() -> None:
    rows = matrix()
    assert rows.shape == (3, 9)
    for row, name in zip(rows, ("a", "b"), strict=False):
        parameters = model()
        terms(parameters, INPUTS)[name].backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters.values()]
        torch.testing.assert_close(row, torch.cat([g.flatten() for g in grads]))
    assert not rows[2].any()


def test_every_rank_has_the_matrix_of_the_global_batch(two_ranks) -> None:
    first, second = two_ranks(matrix)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, matrix(), rtol=0, atol=1e-12)


def test_the_weighted_sum_is_the_gradient_of_the_total() -> None:
    parameters = model()
    values = list(parameters.values())
    three = terms(parameters, INPUTS)
    weights = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)
    combined = WeightedSum().combine(per_term_gradients(three, values), weights, tuple(three))
    total: Tensor = sum(w * t for w, t in zip(weights, three.values(), strict=True))
    total.backward()
    plain = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
    assign_gradient(combined, values)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=0, atol=1e-12)


def test_an_idle_parameter_is_not_decayed() -> None:
    parameters = model()
    values = list(parameters.values())
    terms(parameters, INPUTS)["a"].backward()
    assign_gradient(torch.ones(9, dtype=torch.float64), values)
    assert parameters["none"].grad is None
    torch.optim.SGD(values, lr=0.1, weight_decay=0.5).step()
    assert float(parameters["none"].detach()) == 1.0
    assert parameters["both"].grad.tolist() == [[1.0] * 2] * 3
