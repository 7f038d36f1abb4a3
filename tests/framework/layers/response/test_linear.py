"""The linear response layer: its worked numbers, both ways to compute it, and precisions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.layers import Conditioning, ResponseLinear, convert_to_response, fold_response

WORKED = {
    "weight": [[1.0, 2.0], [0.0, -1.0]],
    "bias": [0.5, -0.5],
    "weight_response": [[0.5, 0.0], [1.0, 1.0]],
    "bias_response": [1.0, 2.0],
    "weight_gate": [[0.1, -0.2], [0.3, 0.4]],
    "bias_gate": [[0.05, 0.0], [0.0, -0.1]],
}


def worked() -> ResponseLinear:
    layer = ResponseLinear(2, 2, Conditioning(2), dtype=torch.float64)
    layer.load_state_dict(
        {name: torch.tensor(value, dtype=torch.float64) for name, value in WORKED.items()}
    )
    return layer


INPUTS = torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=torch.float64)
HYPERPARAMETERS = torch.tensor([[0.2, -1.0], [1.5, 0.3]], dtype=torch.float64)
OUTPUTS = torch.tensor([[-0.38, 0.70], [3.665, 0.365]], dtype=torch.float64)


def close(actual: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def test_worked_outputs_per_row_and_one_by_one() -> None:
    layer = worked()
    with layer.conditioning.at(HYPERPARAMETERS):
        close(layer(INPUTS), OUTPUTS, 1e-12)
    for x, h, y in zip(INPUTS, HYPERPARAMETERS, OUTPUTS, strict=True):
        with layer.conditioning.at(h):
            close(layer(x[None]), y[None], 1e-12)
            close(layer(x), y, 1e-12)
        with layer.conditioning.at(h[None]):
            close(layer(x), y, 1e-12)


def test_worked_fold() -> None:
    layer = fold_response(worked(), HYPERPARAMETERS[0])
    assert type(layer) is nn.Linear
    close(layer.weight, torch.tensor([[1.11, 2.0], [-0.34, -1.34]], dtype=torch.float64), 1e-12)
    close(layer.bias, torch.tensor([0.51, -0.30], dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inner", [(), (3,), (3, 2)])
def test_each_row_is_that_of_its_own_hyperparameters(inner: tuple[int, ...], bias: bool) -> None:
    layer = ResponseLinear(5, 4, Conditioning(3), bias=bias, gate_scale=1.0, dtype=torch.float64)
    x, h = torch.randn(6, *inner, 5).double(), torch.randn(6, 3).double()
    with layer.conditioning.at(h):
        y = layer(x)
    for row in range(6):
        with layer.conditioning.at(h[row]):
            close(y[row], layer(x[row : row + 1])[0], 1e-12)


@pytest.mark.parametrize("shape", [(2,), (7, 2)])
def test_gates_of_0_leave_the_layer_as_it_was(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(5, 4)
    x = torch.randn(7, 3, 5)
    expected = layer(x)
    conditioning = convert_to_response(layer, 2, gate_scale=0)
    with conditioning.at(torch.randn(shape)):
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("shape", [(2,), (4, 2)])
def test_gradients(shape: tuple[int, ...]) -> None:
    layer = ResponseLinear(3, 2, Conditioning(2), gate_scale=1.0, dtype=torch.float64)
    names = list(dict(layer.named_parameters()))

    def output(x: Tensor, h: Tensor, *values: Tensor) -> Tensor:
        with layer.conditioning.at(h):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert len(names) == 6
    assert torch.autograd.gradcheck(output, (x, h, *layer.parameters()))
    assert torch.autograd.gradgradcheck(output, (x, h, *layer.parameters()))


@pytest.mark.parametrize("shape", [(2,), (0, 2)])
def test_an_empty_batch_has_a_gradient_path(shape: tuple[int, ...]) -> None:
    layer = ResponseLinear(3, 4, Conditioning(2))
    with layer.conditioning.at(torch.zeros(shape)):
        y = layer(torch.zeros(0, 3))
    assert y.shape == (0, 4)
    y.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_autocast_leaves_gates_in_float32() -> None:
    layer = ResponseLinear(64, 8, Conditioning(2))
    x, h = torch.randn(16, 64), torch.full((16, 2), 1 + 2**-9)
    exact = layer.gate("weight", h)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gate = layer.gate("weight", h)
        with layer.conditioning.at(h):
            y = layer(x)
        plain = F.linear(x, layer.weight, layer.bias)
    assert torch.equal(gate, exact)
    assert y.dtype == plain.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight_gate.grad.dtype == torch.float32


def test_half_precision_of_a_network_leaves_gates_in_float32() -> None:
    layer = ResponseLinear(3, 4, Conditioning(2))
    order = list(dict(layer.named_parameters()))
    before = layer.weight_gate.detach().clone()
    layer.weight_gate.grad = torch.full_like(before, 1 + 2**-9)
    layer.bfloat16()
    kinds = {name: p.dtype for name, p in layer.named_parameters()}
    assert list(kinds) == order
    assert kinds["weight_gate"] == kinds["bias_gate"] == torch.float32
    assert {kinds[name] for name in order if "gate" not in name} == {torch.bfloat16}
    assert torch.equal(layer.weight_gate, before)
    assert layer.weight_gate.grad.unique().tolist() == [1 + 2**-9]
    with layer.conditioning.at(torch.zeros(5, 2)):
        assert layer(torch.ones(5, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.double().weight_gate.dtype == torch.float64


def test_rows_that_were_flattened_are_refused_with_the_name_of_the_layer() -> None:
    network = nn.ModuleDict({"decoder": nn.Linear(3, 2)})
    conditioning = convert_to_response(network, 1)
    with (
        conditioning.at(torch.zeros(4, 1)),
        pytest.raises(ValueError, match=r"ResponseLinear 'decoder' got an input of 8 rows"),
    ):
        network["decoder"](torch.ones(8, 3))


def test_the_squared_norm_is_that_of_the_weights_of_each_row() -> None:
    layer = worked()
    with layer.conditioning.at(HYPERPARAMETERS):
        norms = layer.squared_norm()
    with layer.conditioning.at(HYPERPARAMETERS[0]):
        assert layer.squared_norm().shape == (1,)
        close(layer.squared_norm(), norms[:1], 1e-12)
    # the folded weights of the first row, written out
    close(norms[0], torch.tensor(1.11**2 + 2.0**2 + 2 * 0.0 + 0.34**2 + 1.34**2).double(), 1e-6)
    weight = fold_response(layer, HYPERPARAMETERS[1]).weight
    close(norms[1], weight.square().sum(), 1e-12)


def test_the_start_is_drawn_as_in_the_released_code() -> None:
    layer = ResponseLinear(400, 300, Conditioning(20))
    for name in ("weight_response", "bias_response"):
        values = getattr(layer, name).detach()
        assert 0.04 < float(values.abs().max()) <= 0.05
        assert abs(float(values.mean())) < 0.01
    for name in ("weight_gate", "bias_gate"):
        assert float(getattr(layer, name).detach().std()) == pytest.approx(0.01, rel=0.05)
