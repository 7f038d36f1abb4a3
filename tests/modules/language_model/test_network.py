"""The language model's network: its layers, its masks, and the states it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.language_model.network import LSTMNetwork

SIZES = {"vocabulary_size": 11, "width": 6, "hidden_width": 9, "layers": 3}


def network(**options: object) -> LSTMNetwork:
    torch.manual_seed(0)
    return LSTMNetwork(**{**SIZES, **options}).double()  # type: ignore[arg-type]


def tokens(rows: int = 4, length: int = 5) -> torch.Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(1))


def test_layers_are_those_that_can_be_converted() -> None:
    kinds = {
        name: type(layer) for name, layer in network().named_modules() if [*layer.parameters(False)]
    }
    assert kinds == {
        "embedding": nn.Embedding,
        "lstms.0": nn.LSTM,
        "lstms.1": nn.LSTM,
        "lstms.2": nn.LSTM,
        "decoder": nn.Linear,
    }
    sizes = [(layer.input_size, layer.hidden_size) for layer in network().lstms]
    assert sizes == [(6, 9), (9, 9), (9, 6)]
    assert all(layer.num_layers == 1 and layer.batch_first for layer in network().lstms)


def test_without_dropout_it_is_one_layer_after_the_other() -> None:
    model = network()
    x = model.embedding(tokens())
    for lstm in model.lstms:
        x, _ = lstm(x)
    found = model(tokens())
    assert torch.allclose(found.output, x, atol=1e-12)
    assert torch.allclose(found.dropped, x, atol=1e-12)
    expected = x @ model.embedding.weight.T + model.decoder.bias
    assert torch.allclose(found.logits, expected, atol=1e-12)


def test_the_decoder_is_tied_or_not() -> None:
    tied, free = network(), network(tied=False)
    assert tied.decoder.weight is tied.embedding.weight
    assert free.decoder.weight is not free.embedding.weight
    gap = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert gap == 11 * 6
    for weight in (tied.embedding.weight, free.decoder.weight):
        assert 0.09 < weight.abs().max().item() <= 0.1
    assert not free.decoder.bias.any()


def test_states_go_on_where_a_window_ends() -> None:
    model = network().eval()
    whole = model(tokens(length=7)).logits
    first = model(tokens(length=7)[:, :3])
    second = model(tokens(length=7)[:, 3:], first.states)
    assert torch.allclose(torch.cat([first.logits, second.logits], 1), whole, atol=1e-12)
    assert not torch.allclose(model(tokens(length=7)[:, 3:]).logits, whole[:, 3:])


def test_a_mask_is_that_of_a_window() -> None:
    model = network(output_dropout=0.5)
    found = model(tokens(rows=8))
    kept = found.dropped != 0
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert len(set(map(tuple, kept[:, 0].tolist()))) > 1
    assert torch.allclose(found.dropped[kept], 2 * found.output[kept])
    assert torch.equal(model.eval()(tokens()).dropped, model(tokens()).output)


@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "output_dropout"])
def test_each_dropout_acts_in_training_only(name: str) -> None:
    plain, dropping = network(), network(**{name: 0.5})
    assert not torch.allclose(dropping(tokens()).logits, plain(tokens()).logits)
    assert torch.equal(dropping.eval()(tokens()).logits, plain.eval()(tokens()).logits)


def test_gradients_in_evaluation_mode_and_of_no_rows() -> None:
    model = network().eval()
    model(tokens()).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    model.zero_grad()
    model.train()(tokens(rows=0)).logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size must be at least 2"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"hidden_dropout": 1.0}, r"p must lie in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**options)
