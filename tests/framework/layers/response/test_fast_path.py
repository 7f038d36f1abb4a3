"""Transformer encoders of torch, which in evaluation read weights without calling layers."""

import torch
from torch import nn

from framework.layers import convert_to_response, fold_response


def encoder() -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True)
    return nn.TransformerEncoder(layer, 2).eval()


def test_evaluation_without_gradients_sees_the_hyperparameters() -> None:
    model, x = encoder(), torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        before = model(x)
    conditioning = convert_to_response(model, 1, gate_scale=3.0)
    with conditioning.at(torch.ones(1)):
        for mask in (None, padding):
            expected = model(x, src_key_padding_mask=mask)
            with torch.no_grad():
                actual = model(x, src_key_padding_mask=mask)
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
        expected = model(x)
    assert float((expected - before).detach().abs().max()) > 0.1
    fold_response(model, torch.ones(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=0)


def test_folding_takes_back_its_own_hooks_only() -> None:
    model = encoder()
    layer, calls = model.layers[0].linear1, []
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    conditioning = convert_to_response(model, 1, include=["layers.0.*"])
    assert [len(m._forward_pre_hooks) for m in (layer, model.layers[0].linear2)] == [2, 1]
    convert_to_response(model, 1)
    assert [len(m._forward_pre_hooks) for m in (layer, model.layers[0].linear2)] == [2, 1]
    conditioning.source = lambda: torch.zeros(1)
    fold_response(model, torch.zeros(1))
    assert [len(m._forward_pre_hooks) for m in (layer, model.layers[0].linear2)] == [1, 0]
    with torch.no_grad():
        model(torch.randn(3, 5, 16))
    assert calls == [1]
