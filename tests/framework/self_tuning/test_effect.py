"""Effects together: their hyperparameters' names, and how configs write them."""

import pytest
import torch
from jsonargparse import ArgumentParser

from framework.self_tuning import (
    Draws,
    Effect,
    HyperParameter,
    InputDropout,
    TunedDropout,
    acting,
    hyperparameters_of,
)


def test_names_of_several_effects() -> None:
    effects = [TunedDropout(), TunedDropout(name="last"), InputDropout()]
    names = ["dropout.rate", "last.rate", "input_dropout.rate"]
    assert list(hyperparameters_of(effects)) == names
    with pytest.raises(ValueError, match="Two effects have the name 'dropout'"):
        hyperparameters_of([TunedDropout(), TunedDropout()])


def test_effects_act_inside_the_block_only() -> None:
    effects = [InputDropout(), InputDropout(name="again")]
    values = {
        "input_dropout.rate": torch.tensor([0.1, 0.2], requires_grad=True),
        "again.rate": torch.tensor(0.3),
    }
    with acting(effects, values, Draws(0, 0)):
        assert effects[0].active is not None
        assert not effects[0].active["rate"].requires_grad
        assert effects[1].active == {"rate": values["again.rate"]}
    assert {effect.active for effect in effects} == {None}
    with pytest.raises(KeyError, match="input_dropout"), acting(effects, {}, Draws(0, 0)):
        pass


def test_a_config_writes_effects_as_plain_mappings() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--effects", type=list[Effect])
    rate = {"init": 0.2, "shared": True}
    written = [
        {"class_path": "TunedDropout", "init_args": {"layers": ["a.*"], "rate": rate}},
        {"class_path": "InputDropout"},
    ]
    found = parser.instantiate(parser.parse_object({"effects": written})).effects
    assert found[0].layers == ["a.*"]
    assert hyperparameters_of(found) == {
        "dropout.rate": HyperParameter(0.2, 0.0, 0.9, shared=True),
        "input_dropout.rate": HyperParameter(0.05, 0.0, 1.0),
    }
