"""Embedding tables that respond: column gates, padding, ties and folds."""

import pytest
import torch
from torch import Tensor, nn

from framework.layers import (
    Conditioning,
    ResponseEmbedding,
    convert_to_response,
    fold_response,
    fold_state_dict,
)

TOKENS = torch.tensor([[1, 4, 0], [2, 2, 3]])


def test_worked_numbers() -> None:
    layer = ResponseEmbedding(2, 2, Conditioning(1))
    state = {
        "weight": [[1.0, 2.0], [3.0, 4.0]],
        "weight_response": [[10.0, 20.0], [30.0, 40.0]],
        "weight_column_gate": [[0.5], [-1.0]],
    }
    layer.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    with layer.conditioning.at(torch.tensor([[2.0], [1.0]])):
        assert layer(torch.tensor([0, 1])).tolist() == [[11.0, -38.0], [18.0, -36.0]]
        # 11^2 + 33^2 + 38^2 + 76^2, and at h = 1 the entries 6, 18, -18, -36
        assert layer.squared_norm().tolist() == [8430.0, 1980.0]


@pytest.mark.parametrize("padding_idx", [None, 0])
def test_per_sample_shared_and_folded_agree(padding_idx: int | None) -> None:
    layer = nn.Embedding(5, 4, padding_idx=padding_idx)
    plain, h = layer(TOKENS), torch.randn(2, 3)
    conditioning = convert_to_response(layer, 3, gate_scale=1.0)
    with conditioning.at(h):
        y = layer(TOKENS)
    assert not torch.equal(y, plain)
    for row in range(2):
        with conditioning.at(h[row]):
            torch.testing.assert_close(layer(TOKENS[row : row + 1])[0], y[row])
            torch.testing.assert_close(layer(TOKENS[row, 0]), y[row, 0])
    state = fold_state_dict(layer.state_dict(), h[1])
    fold_response(layer, h[1])
    assert type(layer) is nn.Embedding
    assert torch.equal(state["weight"], layer.weight)
    torch.testing.assert_close(layer(TOKENS[1]), y[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_gates_of_0_leave_the_layer_as_it_was(shape: tuple[int, ...]) -> None:
    layer = nn.Embedding(5, 4)
    expected = layer(TOKENS)
    with convert_to_response(layer, 3, gate_scale=0).at(torch.randn(shape)):
        assert torch.equal(layer(TOKENS), expected)


def test_padding_is_0_at_any_hyperparameters_and_learns_nothing() -> None:
    layer = ResponseEmbedding(5, 4, Conditioning(1), 1.0, padding_idx=0)
    with layer.conditioning.at(torch.tensor([3.0])):
        y = layer(TOKENS)
    assert not y[0, 2].any()
    y.sum().backward()
    for parameter in (layer.weight, layer.weight_response):
        assert not parameter.grad[0].any()
        assert parameter.grad[1].any()


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_gradients(shape: tuple[int, ...]) -> None:
    layer = ResponseEmbedding(5, 3, Conditioning(2), 1.0, dtype=torch.float64)
    names = list(dict(layer.named_parameters()))

    def output(h: Tensor, *values: Tensor) -> Tensor:
        with layer.conditioning.at(h):
            state = dict(zip(names, values, strict=True))
            return torch.func.functional_call(layer, state, (TOKENS,))

    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (h, *layer.parameters()))


def test_sparse_gradients_stay_sparse() -> None:
    layer = ResponseEmbedding(5, 3, Conditioning(1), sparse=True)
    with layer.conditioning.at(torch.ones(1)):
        layer(TOKENS).sum().backward()
    assert layer.weight.grad.is_sparse
    assert layer.weight_response.grad.is_sparse


@pytest.mark.parametrize("shape", [(2,), (0, 2)])
def test_an_empty_batch_has_a_gradient_path(shape: tuple[int, ...]) -> None:
    layer = ResponseEmbedding(5, 4, Conditioning(2))
    with layer.conditioning.at(torch.zeros(shape)):
        y = layer(torch.zeros(0, 3, dtype=torch.int64))
    assert y.shape == (0, 3, 4)
    y.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_a_decoder_is_tied_to_the_base_table() -> None:
    table, decoder = nn.Embedding(5, 4), nn.Linear(4, 5)
    decoder.weight = table.weight
    model = nn.ModuleDict({"table": table, "decoder": decoder})
    conditioning = convert_to_response(model, 1, exclude=["decoder"], gate_scale=1.0)
    base = table.weight.detach().clone()
    with conditioning.at(torch.ones(1)):
        (table(TOKENS).sum() + decoder(torch.ones(1, 4)).sum()).backward()
    assert decoder.weight is table.weight
    fold_response(model, torch.ones(1))
    assert torch.equal(decoder.weight, base)
    assert not torch.equal(table.weight, base)


def test_a_largest_norm_is_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "table": nn.Embedding(5, 4, max_norm=1.0)})
    with pytest.raises(ValueError, match=r"'table' has max_norm=1.0, .* exclude it"):
        convert_to_response(model, 1)
    assert type(model["a"]) is nn.Linear
