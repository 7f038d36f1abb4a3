"""Folded networks are ordinary ones that compute what the conditioned network did."""

import pytest
import torch
from torch import nn

from framework.layers import (
    convert_to_response,
    fold_response,
    fold_state_dict,
    has_response_layers,
)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2, bias=False))


@pytest.mark.parametrize("centered", [False, True])
def test_a_folded_network_is_the_conditioned_one(centered: bool) -> None:
    model, plain = network(), network()
    conditioning = convert_to_response(model, 2, gate_scale=1.0, centered=centered)
    center = torch.tensor([0.7, -0.1])
    conditioning.source = lambda: center
    x, h = torch.randn(5, 3), torch.tensor([0.4, -1.3])
    with conditioning.at(h):
        expected = model(x)
    with conditioning.at(h.expand(5, 2)):
        torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=0)
    state = fold_state_dict(model.state_dict(), h, center if centered else None)
    folded = fold_response(model, h)
    assert folded is model
    assert not has_response_layers(model)
    assert str(model) == str(plain)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=0)
    assert list(state) == list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(state)
    assert torch.equal(plain(x), model(x))


def test_a_centered_network_at_its_center_has_its_base_weights() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    h = torch.tensor([0.7, -0.1])
    convert_to_response(model, 2, centered=True).source = lambda: h
    state = fold_response(model, h).state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())


def test_a_folded_layer_can_be_trained_and_converted_again() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    convert_to_response(model, 2)
    fold_response(model, torch.zeros(2))
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert vars(model[2]).keys() == vars(nn.Linear(1, 1)).keys()
    model(torch.ones(1, 3)).sum().backward()
    convert_to_response(model, 5)
    assert model[2].weight_gate.shape == (2, 5)


def test_a_weight_shared_with_an_ordinary_layer_stays_the_base_weight_there() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.ModuleList([first, second])
    base = first.weight.detach().clone()
    convert_to_response(model, 1, include=["0"], gate_scale=1.0)
    fold_response(model, torch.tensor([1.0]))
    assert torch.equal(second.weight, base)
    assert not torch.equal(first.weight, base)


def test_a_state_dict_keeps_what_is_not_of_a_response_layer() -> None:
    state = {
        "raw": torch.ones(1),
        "a.weight": torch.ones(2, 3),
        "a.weight_response": torch.full((2, 3), 2.0),
        "a.weight_gate": torch.tensor([[0.5], [1.0]]),
        "b.weight": torch.ones(2),
        "b.weight_gate": torch.ones(2),
        "c.weight_response": torch.ones(2),
    }
    before = dict(state)
    folded = fold_state_dict(state, torch.tensor([3.0]))
    assert list(folded) == ["raw", "a.weight", "b.weight", "b.weight_gate", "c.weight_response"]
    assert folded["a.weight"].tolist() == [[4.0] * 3, [7.0] * 3]
    assert state == before


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    model = network()
    convert_to_response(model, 2)
    state = model.state_dict()
    for fold in (lambda h: fold_response(model, h), lambda h: fold_state_dict(state, h)):
        with pytest.raises(ValueError, match=r"hyperparameters of shape \(2,\), got \("):
            fold(torch.zeros(shape))
    assert has_response_layers(model)
