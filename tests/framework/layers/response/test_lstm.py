"""LSTMs that respond, against torch's."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from framework.layers import (
    Conditioning,
    ResponseLSTM,
    convert_to_response,
    fold_response,
    fold_state_dict,
)

SETTINGS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True},
]
STEPS, ROWS = 4, 3


def close(actual: object, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def sequences(layer: nn.LSTM, rows: int = ROWS) -> Tensor:
    shape = (rows, STEPS) if layer.batch_first else (STEPS, rows)
    return torch.randn(*shape, layer.input_size, dtype=layer.weight_ih_l0.dtype)


def start(layer: nn.LSTM) -> tuple[Tensor, Tensor]:
    places = layer.num_layers * (2 if layer.bidirectional else 1)
    shape, dtype = (places, ROWS, layer.hidden_size), layer.weight_ih_l0.dtype
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_gates_of_0_leave_the_layer_as_it_was(settings: dict, states: bool) -> None:
    layer = nn.LSTM(5, 4, **settings)
    x, hx = sequences(layer), start(layer) if states else None
    expected = layer(x, hx)
    conditioning = convert_to_response(layer, 2, gate_scale=0)
    assert type(layer) is ResponseLSTM
    for shape in ((2,), (ROWS, 2)):
        with conditioning.at(torch.randn(shape)):
            close(layer(x, hx), expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_per_sample_shared_and_folded_agree(settings: dict) -> None:
    layer = nn.LSTM(5, 4, **settings, dtype=torch.float64)
    x, hx, h = sequences(layer), start(layer), torch.randn(ROWS, 2)
    plain, _ = layer(x, hx)
    conditioning = convert_to_response(layer, 2, gate_scale=0.5)
    axis = 0 if layer.batch_first else 1
    with conditioning.at(h):
        y, (hidden, cell) = layer(x, hx)
        norms = layer.squared_norm()
    assert float((y - plain).detach().abs().max()) > 0.01
    for row in range(ROWS):
        own = slice(row, row + 1)
        own_hx = hx[0][:, own].contiguous(), hx[1][:, own].contiguous()
        with conditioning.at(h[row]):
            result, (own_hidden, own_cell) = layer(x.narrow(axis, row, 1), own_hx)
            close(result, y.narrow(axis, row, 1))
            close((own_hidden, own_cell), (hidden[:, own], cell[:, own]))
            single, (last, _) = layer(x.select(axis, row), (hx[0][:, row], hx[1][:, row]))
            close(single, y.select(axis, row))
            close(last, hidden[:, row])
    state = fold_state_dict(layer.state_dict(), h[1])
    fold_response(layer, h[1])
    assert type(layer) is nn.LSTM
    assert list(state) == list(layer.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    close(layer(x, hx)[0].select(axis, 1), y.select(axis, 1))
    weights = [p for name, p in layer.named_parameters() if name.startswith("weight")]
    close(sum(w.square().sum() for w in weights), norms[1], 1e-12)


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_gradients(shape: tuple[int, ...]) -> None:
    layer = ResponseLSTM(2, 2, Conditioning(2), 1.0, dtype=torch.float64)
    layer.hidden_mask = (torch.arange(16).view(8, 2) % 3 > 0).double()
    names = list(dict(layer.named_parameters()))
    assert len(names) == 12

    def output(x: Tensor, h: Tensor, *values: Tensor) -> Tensor:
        with layer.conditioning.at(h):
            state = dict(zip(names, values, strict=True))
            return torch.func.functional_call(layer, state, (x,))[0]

    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, h, *layer.parameters()), fast_mode=True)


def test_hyperparameters_have_a_gradient_in_evaluation() -> None:
    layer = ResponseLSTM(5, 4, Conditioning(2), num_layers=2, dropout=0.5).eval()
    x = sequences(layer)
    gradients = []
    for h in (torch.zeros(2), torch.zeros(ROWS, 2)):
        h.requires_grad_()
        with layer.conditioning.at(h):
            layer(x)[0].sum().backward()
        gradients.append(h.grad.view(-1, 2).sum(0))
    assert gradients[0].abs().min() > 0
    close(gradients[0], gradients[1], 1e-5)


@pytest.mark.parametrize("shape", [(1,), (ROWS, 1)])
def test_a_hidden_mask_acts_on_base_and_response(shape: tuple[int, ...]) -> None:
    layer = ResponseLSTM(5, 4, Conditioning(1), gate_scale=1.0)
    x = sequences(layer)
    mask = (torch.arange(64).view(16, 4) % 3 > 0).float()
    with layer.conditioning.at(torch.full(shape, 0.7)):
        without = layer(x)[0]
        layer.hidden_mask = mask
        masked = layer(x)[0]
        layer.hidden_mask = torch.zeros_like(mask)
        alone = layer(x)[0]
        layer.hidden_mask = None
        with torch.no_grad():
            for name in ("weight_hh_l0", "weight_hh_l0_response"):
                layer.get_parameter(name).mul_(mask)
        close(layer(x)[0], masked)
    # the first state is 0, so that the first step has no hidden part
    close(without[0], alone[0])
    assert float((without[1:] - masked[1:]).detach().abs().max()) > 0.01


def test_dropout_between_layers_is_that_of_training() -> None:
    layer = ResponseLSTM(5, 400, Conditioning(1), gate_scale=0, num_layers=2, dropout=0.5)
    x = sequences(layer)
    for shape in ((1,), (ROWS, 1)):
        with layer.conditioning.at(torch.zeros(shape)):
            assert not torch.equal(layer.train()(x)[0], layer(x)[0])
            assert torch.equal(layer.eval()(x)[0], layer(x)[0])


@pytest.mark.parametrize("shape", [(1,), (ROWS, 1)])
def test_half_precision(shape: tuple[int, ...]) -> None:
    layer = ResponseLSTM(5, 4, Conditioning(1), num_layers=2)
    x = sequences(layer)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nn.LSTM(5, 4)(x)
    except RuntimeError:
        pytest.skip("torch's own LSTM has no bfloat16 on this processor")
    with layer.conditioning.at(torch.ones(shape)):
        exact = layer(x)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = [layer(x)]
        layer.bfloat16()
        results.append(layer(x.bfloat16()))
    for y, states in results:
        assert {y.dtype, *(state.dtype for state in states)} == {torch.bfloat16}
        close(y.float(), exact, 0.02)
    results[1][0].float().sum().backward()
    assert layer.weight_hh_l0_gate.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2,), (0, 2)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_an_empty_batch_has_a_gradient_path(settings: dict, shape: tuple[int, ...]) -> None:
    layer = ResponseLSTM(5, 4, Conditioning(2), **settings)
    x = sequences(layer, rows=0)
    with layer.conditioning.at(torch.zeros(shape)):
        y, _ = layer(x)
    assert y.shape == (*x.shape[:2], 8 if layer.bidirectional else 4)
    y.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_packed_sequences_are_refused() -> None:
    layer = ResponseLSTM(5, 4, Conditioning(2))
    with pytest.raises(TypeError, match="ResponseLSTM takes no PackedSequence: pad the sequences"):
        layer(pack_sequence([torch.ones(3, 5)]))


def test_projections_are_refused() -> None:
    with pytest.raises(ValueError, match=r"The LSTM 'a' has proj_size=2, .* exclude it"):
        convert_to_response(nn.ModuleDict({"a": nn.LSTM(5, 4, proj_size=2)}), 1)


def test_other_numbers_of_samples_are_refused() -> None:
    layer = ResponseLSTM(5, 4, Conditioning(2))
    with (
        layer.conditioning.at(torch.zeros(STEPS, 2)),
        pytest.raises(ValueError, match=rf"an input of {ROWS} rows.* for {STEPS} samples"),
    ):
        layer(sequences(layer))
