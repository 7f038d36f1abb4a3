"""Tuned dropout: rates of rows, which layers it takes, and the same masks on all ranks."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from framework.distributed.collectives import rank
from framework.layers import GlobalDropout
from framework.self_tuning import Draws, HyperParameter, TunedDropout
from framework.self_tuning.effects.dropping import drop


def attached(model: nn.Module, **arguments: object) -> TunedDropout:
    effect = TunedDropout(**arguments)
    effect.attach(model)
    return effect


def rates(*values: float) -> dict[str, torch.Tensor]:
    return {"rate": torch.tensor(values if len(values) > 1 else values[0])}


def test_every_row_is_dropped_at_its_own_rate() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    effect = attached(model)
    with effect.at(rates(0.0, 0.2, 0.7, 1.0), Draws(0, 0)):
        y = model(torch.ones(4, 100, 200))
    share = (y == 0).flatten(1).double().mean(1)
    assert share.tolist() == pytest.approx([0, 0.2, 0.7, 1.0], abs=0.02)
    for row, kept in ((0, 1), (1, 1.25), (2, 1 / 0.3)):
        assert sorted(set(y[row].flatten().tolist()))[-1] == pytest.approx(kept)
    assert float(y[:3].mean()) == pytest.approx(1, abs=0.02)


def test_a_gradient_is_finite_at_rate_1_and_zero_where_an_infinity_is_dropped() -> None:
    x = torch.tensor([[1.0, torch.inf], [1.0, 2.0]], requires_grad=True)
    y = drop(x, torch.tensor([[0.5], [1.0]]), torch.tensor([[0.9, 0.1], [0.9, 0.1]]))
    assert y.tolist() == [[2, 0], [0, 0]]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [[2, 0], [0, 0]]


def test_outside_of_a_step_and_in_evaluation_nothing_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    plain = deepcopy(model)
    keys = list(model.state_dict())
    effect = attached(model)
    assert list(model.state_dict()) == keys
    x = torch.randn(3, 4)
    torch.manual_seed(1)
    expected = plain(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), expected)
    with effect.at(rates(0.9), Draws(0, 0)):
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert model[1].p == 0
    assert model[1].p == 0.5
    effect.detach(model)
    with effect.at(rates(0.9), Draws(0, 0)):
        torch.manual_seed(1)
        assert torch.equal(model.train()(x), expected)


def test_an_error_inside_gives_the_layers_their_rates_back() -> None:
    model = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    effect = attached(model)
    with pytest.raises(KeyError), effect.at(rates(0.5), Draws(0, 0)):
        raise KeyError
    assert model[1].p == 0.5
    assert effect.active is None


@pytest.mark.parametrize("layer", [nn.Dropout1d(0.5), nn.Dropout2d(0.5), nn.Dropout3d(0.5)])
def test_channels_are_dropped_as_a_whole(layer) -> None:
    model = nn.Sequential(layer)
    effect = attached(model)
    axes = int(type(layer).__name__[7])
    with effect.at(rates(0.3, 0.7), Draws(0, 0)):
        y = model(torch.ones(2, 50, *[3] * axes))
    channels = y.flatten(2)
    assert (channels == channels[..., :1]).all()
    assert 0 < int((channels[0, :, 0] == 0).sum()) < int((channels[1, :, 0] == 0).sum()) < 50


def test_a_sequence_with_one_mask_for_all_positions() -> None:
    model = nn.Sequential(nn.Dropout())
    effect = attached(model, locked=True)
    with effect.at(rates(0.5, 0.5), Draws(0, 0)):
        y = model(torch.ones(2, 7, 40))
    assert (y == y[:, :1]).all()
    assert (y[0] != y[1]).any()


def test_a_layer_of_ours_keeps_its_own_count() -> None:
    model = nn.Sequential(GlobalDropout(0.5, stream="a"))
    effect = attached(model)
    with effect.at(rates(0.5), Draws(0, 0)):
        y = model(torch.ones(4, 100))
    assert sorted(set(y.flatten().tolist())) == [0, 2]
    assert model[0].count == 0
    assert model[0].p == 0.5


def test_output_and_input_of_other_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 50))
    after, before = attached(model, layers="2"), attached(model, layers=["2"], where="input")
    seen = []
    model[2].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with after.at(rates(0.5), Draws(0, 0)):
        y = model(torch.ones(4, 3))
    assert 0.3 < float((y == 0).double().mean()) < 0.7
    whole = float((seen[0] == 0).double().mean())
    with before.at(rates(0.9), Draws(0, 0)):
        y = model(torch.ones(4, 3))
    assert not (y == 0).any()
    assert float((seen[1] == 0).double().mean()) > max(whole, 0.8)


def test_the_output_of_an_lstm() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4, batch_first=True)})
    effect = attached(model, layers="lstm")
    with effect.at(rates(0.0, 0.5), Draws(0, 0)):
        y, (h, _) = model["lstm"](torch.ones(2, 30, 3))
    assert not (y[0] == 0).any()
    assert 0.3 < float((y[1] == 0).double().mean()) < 0.7
    assert not (h == 0).any()


def test_each_call_and_each_layer_draws_for_itself() -> None:
    layer = nn.Dropout()
    model = nn.Sequential(layer, nn.Dropout())
    effect = attached(model)
    x = torch.ones(3, 50)
    with effect.at(rates(0.5), Draws(0, 0)):
        masks = [layer(x), layer(x), model[1](x)]
    with effect.at(rates(0.5), Draws(0, 0)):
        assert torch.equal(layer(x), masks[0])
    assert all((a != b).any() for a, b in zip(masks, [*masks[1:], masks[0]], strict=True))


def test_a_copy_of_the_network_keeps_the_effect() -> None:
    model = nn.Sequential(nn.Dropout(0.0))
    effect = attached(model)
    copied = deepcopy(model)
    with effect.at(rates(0.5), Draws(0, 0)):
        assert (copied(torch.ones(3, 50)) == 0).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_drops_the_same_elements(dtype) -> None:
    model = nn.Sequential(nn.Dropout())
    effect = attached(model)
    masks = []
    for kind in (torch.float32, dtype):
        with effect.at(rates(0.3, 0.6), Draws(0, 0)):
            y = model(torch.ones(2, 50, dtype=kind))
        assert y.dtype == kind
        masks.append(y != 0)
    assert torch.equal(*masks)


def test_what_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Flatten(0, 1), nn.Dropout())
    with pytest.raises(ValueError, match=r"'features' matches no layer of Sequential"):
        attached(model, layers="features")
    with pytest.raises(ValueError, match="dropout: Sequential has no dropout layer"):
        attached(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"dropout\.rate must stay between 0 and 1"):
        TunedDropout(rate=HyperParameter(0.1, high=2.0))
    with pytest.raises(ValueError, match="where must be one of output, input, got 'both'"):
        TunedDropout(where="both")
    effect = attached(model)
    with (
        effect.at(rates(0.1, 0.2), Draws(0, 0)),
        pytest.raises(ValueError, match=r"each of the 2 rows .* layer '2' has the shape \(6,\)"),
    ):
        model(torch.ones(2, 2))
    with effect.at(rates(0.1), Draws(0, 0)):
        assert model(torch.ones(2, 2)).shape == (6,)


SLICES = [(4, 3), (7, 0), (0, 7), (1, 6)]


def forwards(slices: list[tuple[int, ...]], x: torch.Tensor) -> list[torch.Tensor]:
    """Drop this rank's slice of ``x``, once for each division of the rows."""
    model = nn.Sequential(nn.Dropout(), nn.Identity())
    effects = [attached(model), attached(model, layers="1", name="second")]
    found = []
    for counts in slices:
        own = torch.linspace(0.1, 0.9, 7).split(counts)[rank()]
        with effects[0].at({"rate": own}, Draws(0, 4)), effects[1].at(rates(0.5), Draws(0, 4)):
            found.append(model(x.split(counts)[rank()]))
    return found


def test_ranks_drop_what_one_process_drops(two_ranks) -> None:
    x = torch.randn(7, 3, 5)
    whole = forwards([(7,)], x)[0]
    assert 0.5 < float((whole == 0).double().mean()) < 0.95
    parts = two_ranks(forwards, SLICES, x)
    for step in range(len(SLICES)):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole)
