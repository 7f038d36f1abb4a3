"""DropConnect: the mask of recurrent weights, shared by rows and ranks."""

import pytest
import torch
from torch import Tensor, nn

from framework.distributed.collectives import rank
from framework.layers import convert_to_response
from framework.self_tuning import Draws, DropConnect

RATE = {"rate": torch.tensor(0.4)}


def converted() -> tuple[nn.ModuleDict, DropConnect, object]:
    torch.manual_seed(0)
    lstms = {name: nn.LSTM(3, 20, batch_first=True) for name in ("first", "second")}
    model, effect = nn.ModuleDict(lstms), DropConnect()
    # its layers stay the same objects
    effect.attach(model)
    return model, effect, convert_to_response(model, 2)


def test_the_masks() -> None:
    model, effect, _ = converted()
    with effect.at(RATE, Draws(0, 0)):
        masks = [layer.hidden_mask for layer in model.values()]
    for mask in masks:
        assert mask.shape == (80, 20)
        assert sorted(set(mask.flatten().tolist())) == pytest.approx([0, 1 / 0.6])
        assert float((mask == 0).double().mean()) == pytest.approx(0.4, abs=0.05)
    assert not torch.equal(*masks)
    assert model["first"].hidden_mask is None


def test_in_evaluation_and_after_an_error_there_is_no_mask() -> None:
    model, effect, _ = converted()
    model["first"].eval()
    with effect.at(RATE, Draws(0, 0)):
        assert model["first"].hidden_mask is None
        assert model["second"].hidden_mask is not None
    assert model["second"].hidden_mask is None
    with pytest.raises(KeyError), effect.at(RATE, Draws(0, 0)):
        raise KeyError
    assert model["second"].hidden_mask is None


def test_a_step_is_one_of_masked_weights() -> None:
    model, effect, conditioning = converted()
    x, h = torch.randn(2, 4, 3), torch.randn(2, 2)
    with effect.at(RATE, Draws(0, 0)), conditioning.at(h):
        found = model["first"](x)[0]
        mask = model["first"].hidden_mask
    with torch.no_grad():
        for name in ("weight_hh_l0", "weight_hh_l0_response"):
            model["first"].get_parameter(name).mul_(mask)
    with conditioning.at(h):
        assert torch.allclose(model["first"](x)[0], found, atol=1e-6)


def output(x: Tensor) -> Tensor:
    model, effect, conditioning = converted()
    own = x[2 * rank() :]
    with effect.at(RATE, Draws(0, 3)), conditioning.at(torch.ones(len(own), 2)):
        return model["first"](own)[0].detach()


def test_ranks_drop_the_same_weights(two_ranks) -> None:
    x = torch.randn(2, 4, 3)
    first, second = two_ranks(output, x)
    assert torch.allclose(first, output(x), atol=1e-6)
    assert second.shape == (0, 4, 20)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'\*' matches no LSTM of Sequential"):
        DropConnect().attach(nn.Sequential(nn.Linear(2, 2)))
    model = nn.ModuleDict({"lstm": nn.LSTM(2, 2)})
    effect = DropConnect()
    effect.attach(model)
    with (
        pytest.raises(ValueError, match="LSTM 'lstm', which does not respond"),
        effect.at(RATE, Draws(0, 0)),
    ):
        pass
    assert effect.active is None
