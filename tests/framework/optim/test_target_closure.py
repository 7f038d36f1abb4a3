"""What a closure of a loop of one's own shows to an optimizer that looks into a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from framework.optim import SSO, TargetClosure

X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0]], dtype=torch.float64)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))


def test_gradients_are_those_of_the_loss() -> None:
    w = weight()
    closure = TargetClosure([w], lambda: X @ w, lambda z: z.square().sum())
    assert closure.rows == 0
    loss = closure()
    z = X @ w.detach()
    assert loss == z.square().sum()
    torch.testing.assert_close(w.grad, 2 * X.T @ z)
    torch.testing.assert_close(closure.targets[0].gradient, 2 * z)
    assert closure.rows == 3


@pytest.mark.parametrize("first", [False, True])
def test_an_output_of_another_one_is_refused(first: bool) -> None:
    w = weight()

    def outputs() -> tuple[torch.Tensor, ...]:
        hidden = X @ w
        both = (hidden, hidden.tanh())
        return both if first else both[::-1]

    closure = TargetClosure([w], outputs, lambda z: (z[0] * z[1]).sum())
    place = 0 if first else 1
    with pytest.raises(
        ValueError, match=f"computed from output {place}, whose gradient would count"
    ):
        SSO([w]).step(closure)


@pytest.mark.parametrize("kind", ["split", "shared", "alone"])
def test_outputs_side_by_side_are_taken(kind: str) -> None:
    w = weight()

    def outputs() -> Any:
        hidden = torch.tanh(X @ w)
        return {
            "split": lambda: hidden.unbind(),
            "shared": lambda: (hidden.exp(), hidden.cos()),
            "alone": lambda: hidden,
        }[kind]()

    def loss(z: Any) -> torch.Tensor:
        return sum(part.square().sum() for part in ([z] if kind == "alone" else z))

    closure = TargetClosure([w], outputs, loss)
    expected = torch.autograd.grad(loss(outputs()), w)[0]
    closure()
    torch.testing.assert_close(w.grad, expected)
    found = closure.outputs()
    seeds = [target.gradient for target in closure.targets]
    torch.testing.assert_close(torch.autograd.grad(found, w, seeds)[0], expected)


def test_every_evaluation_has_the_random_numbers_of_the_call() -> None:
    w = weight()
    closure = TargetClosure([w], lambda: F.dropout(X @ w, 0.5), lambda z: z.square().sum())
    torch.manual_seed(0)
    loss = closure()
    after = torch.get_rng_state()
    for _ in range(2):
        assert torch.equal(closure.outputs()[0], closure.targets[0].value)
        assert closure.evaluate()[0] == loss
    assert torch.equal(torch.get_rng_state(), after)
    masks = set()
    for _ in range(10):
        closure()
        masks.add(tuple((closure.targets[0].value == 0).tolist()))
    assert len(masks) > 1
