"""Convolutions that respond: each setting of torch's, per sample, shared and folded."""

import pytest
import torch
from torch import Tensor, nn

from framework.layers import (
    Conditioning,
    ResponseConv1d,
    ResponseConv2d,
    ResponseConv3d,
    convert_to_response,
    fold_response,
)

KINDS = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
RESPONSES = [ResponseConv1d, ResponseConv2d, ResponseConv3d]
SETTINGS = [
    {},
    {"bias": False, "stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2, "padding": "same"},
    {"groups": 4, "padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "dilation": 2},
]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_per_sample_shared_and_folded_agree(dims: int, settings: dict) -> None:
    layer = KINDS[dims - 1](4, 8, 3, **settings, dtype=torch.float64)
    x, h = torch.randn(3, 4, *[6] * dims).double(), torch.randn(3, 2)
    plain = layer(x)
    conditioning = convert_to_response(layer, 2, gate_scale=0.3)
    assert type(layer) is RESPONSES[dims - 1]
    with conditioning.at(h):
        y, norms = layer(x), layer.squared_norm()
    assert float((y - plain).detach().abs().max()) > 0.01
    for row in range(3):
        with conditioning.at(h[row]):
            close(layer(x[row : row + 1])[0], y[row])
            close(layer(x[row]), y[row])
    with conditioning.at(h[:1]):
        close(layer(x[0]), y[0])
    fold_response(layer, h[1])
    assert type(layer) is KINDS[dims - 1]
    close(layer(x[1:2])[0], y[1])
    close(layer.weight.square().sum(), norms[1])


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_gates_of_0_leave_the_layer_as_it_was(shape: tuple[int, ...]) -> None:
    layer, x = nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.randn(3, 4, 6, 6)
    expected = layer(x)
    with convert_to_response(layer, 2, gate_scale=0).at(torch.randn(shape)):
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (3, 2)])
def test_gradients(shape: tuple[int, ...]) -> None:
    layer = ResponseConv2d(2, 4, 2, Conditioning(2), 1.0, groups=2, dtype=torch.float64)
    names = list(dict(layer.named_parameters()))

    def output(x: Tensor, h: Tensor, *values: Tensor) -> Tensor:
        with layer.conditioning.at(h):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, h, *layer.parameters()))


@pytest.mark.parametrize("shape", [(2,), (0, 2)])
def test_an_empty_batch_has_a_gradient_path(shape: tuple[int, ...]) -> None:
    layer = ResponseConv2d(3, 4, 3, Conditioning(2), padding=1)
    with layer.conditioning.at(torch.zeros(shape)):
        y = layer(torch.zeros(0, 3, 5, 5))
    assert y.shape == (0, 4, 5, 5)
    y.sum().backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_half_precision_under_autocast() -> None:
    layer = ResponseConv2d(3, 4, 3, Conditioning(2))
    with torch.autocast("cpu", dtype=torch.bfloat16), layer.conditioning.at(torch.ones(5, 2)):
        y = layer(torch.ones(5, 3, 4, 4))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight_gate.grad.dtype == torch.float32
    assert layer.weight_gate.grad.abs().sum() > 0
