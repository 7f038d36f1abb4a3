"""Conversion: which layers, what they keep, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from framework.layers import (
    ResponseLinear,
    convert_to_response,
    has_response_layers,
    response_layers,
)


class First(nn.Module):
    """The outputs of an LSTM, without its states."""

    def forward(self, both):
        return both[0]


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8, bias=False)),
        nn.BatchNorm1d(8),
        nn.Linear(8, 2),
    )


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        (["*"], [], ["0.0", "0.2", "2"]),
        (["0.*"], [], ["0.0", "0.2"]),
        (["0.?", "2"], ["*.2"], ["0.0", "2"]),
    ],
)
def test_layers_are_chosen_by_their_names(include, exclude, names) -> None:
    model = network()
    assert not has_response_layers(model)
    convert_to_response(model, 2, include, exclude)
    assert has_response_layers(model)
    assert list(response_layers(model)) == names
    assert {name for name, m in model.named_modules() if type(m) is nn.Linear} == {
        "0.0",
        "0.2",
        "2",
    } - set(names)


def test_a_layer_stays_the_same_object_with_all_it_had() -> None:
    model = network().eval()
    layer, weight, bias = model[2], model[2].weight, model[2].bias
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    bias.requires_grad_(False)
    conditioning = convert_to_response(model, 2)
    assert model[2] is layer
    assert type(layer) is ResponseLinear
    assert layer.weight is weight
    assert layer.bias is bias
    assert not layer.training
    assert layer.weight_response.requires_grad
    assert layer.weight_gate.requires_grad
    # a parameter that does not learn does not respond
    assert not layer.bias_response.requires_grad
    assert not layer.bias_gate.requires_grad
    assert not layer.bias_gate.any()
    with conditioning.at(torch.zeros(2)):
        model(torch.ones(4, 3))
    assert seen == [1]
    assert list(dict(layer.named_parameters())) == [
        "weight",
        "bias",
        "weight_response",
        "weight_gate",
        "bias_response",
        "bias_gate",
    ]


def test_what_is_tied_stays_tied() -> None:
    shared = nn.Linear(3, 3)
    other = nn.Linear(3, 3)
    other.weight = shared.weight
    model = nn.ModuleDict({"a": shared, "b": shared, "c": other})
    convert_to_response(model, 1, include=["b", "c"])
    assert model["a"] is model["b"]
    assert list(response_layers(model)) == ["a", "c"]
    assert model["c"].weight is shared.weight
    assert model["c"].weight_response is not shared.weight_response


def test_a_copy_of_a_converted_network_is_one() -> None:
    model = network()
    conditioning = convert_to_response(model, 1)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    x = torch.randn(4, 3)
    with conditioning.at(torch.randn(4, 1)):
        assert not model(x).any()
        assert other(x).any()


def test_the_state_of_the_ordinary_network_loads_and_responses_keep_their_values() -> None:
    ordinary, model = network(), network()
    convert_to_response(model, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = ordinary.state_dict()
    model.load_state_dict(state)
    assert set(state) < set(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.get(name, before[name]))


def test_a_state_with_half_a_response_is_refused() -> None:
    model = network()
    convert_to_response(model, 2)
    state = model.state_dict()
    del state["2.bias_gate"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "2.bias_gate"'):
        model.load_state_dict(state)


def test_device_and_dtype_are_kept() -> None:
    layer = nn.Linear(3, 2, device="meta", dtype=torch.bfloat16)
    convert_to_response(layer, 1)
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert layer.weight_response.dtype == torch.bfloat16
    assert layer.weight_gate.dtype == torch.float32


def test_subclasses_and_converted_layers_stay_as_they_are() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleDict({"own": Own(2, 2), "first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    convert_to_response(model, 1, include=["first"])
    kept = model["first"].weight_response
    convert_to_response(model, 3)
    assert type(model["own"]) is Own
    assert model["first"].weight_response is kept
    assert model["second"].weight_gate.shape == (2, 3)


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    message = r"No layer that can respond to hyperparameters \(Linear.*\) is named 'encodr'; the "
    with pytest.raises(ValueError, match=message + "nearest are encoder, decoder"):
        convert_to_response(model, 1, include=["decoder", "encodr"])
    assert not has_response_layers(model)


def test_nothing_left_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"none of \['\*'\], and the network has '0.0', '0.2', '2'"
    ):
        convert_to_response(network(), 1, exclude=["*"])
    with pytest.raises(ValueError, match="ReLU has no layer that can respond"):
        convert_to_response(nn.ReLU(), 1)


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="gate_scale must be at least 0, got -1"):
        convert_to_response(network(), 1, gate_scale=-1)


@pytest.mark.slow
def test_a_compiled_network_sees_each_block() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    conditioning = convert_to_response(model, 2, gate_scale=1.0)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(5, 1, 4, 4)
    for shape in ((5, 2), (5, 2), (2,), (2,)):
        with conditioning.at(torch.randn(shape)):
            torch.testing.assert_close(compiled(x), model(x))


def test_an_export_takes_any_number_of_rows() -> None:
    network = nn.Sequential(
        nn.Embedding(7, 4),
        nn.LSTM(4, 5, batch_first=True),
        First(),
        nn.Conv1d(3, 4, 2),
        nn.Linear(4, 2),
    )
    conditioning = convert_to_response(network, 1)
    h = torch.tensor([0.3])
    conditioning.source = lambda: h
    tokens = torch.randint(7, (6, 3))
    rows = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network.eval(), (tokens[:2],), dynamic_shapes=rows)
    torch.testing.assert_close(program.module()(tokens), network(tokens))


@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_a_weight_that_is_computed_from_others_stays_as_it_is(norm) -> None:
    network = nn.Sequential(norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    names = list(network[0].state_dict())
    convert_to_response(network, 1)
    assert list(response_layers(network)) == ["1"]
    assert list(network[0].state_dict()) == names
