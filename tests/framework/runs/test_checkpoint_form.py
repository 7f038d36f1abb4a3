"""A checkpoint that is whole, and holds something else where Lightning expects its parts."""

from __future__ import annotations

from typing import Any

import pytest

from framework.runs.checkpoint_form import check_form
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

WRONG: dict[str, Any] = {
    "'state_dict' must be a dict": {"state_dict": None},
    "'state_dict' has a key that is no text": {"state_dict": {7: None}},
    "'epoch' must be a int": {"epoch": 1.5},
    "'global_step' must be a number of epochs or steps, and is -1": {"global_step": -1},
    "'callbacks.A' must be a dict, and is a str": {"callbacks": {"A": "x"}},
    "'optimizer_states.0' must be a dict, and is a int": {"optimizer_states": [3]},
    "'loops.fit_loop.epoch_progress.current.ready' must be a int": {
        "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": None}}}}
    },
    "'rng.0.torch' must be a Tensor": {"rng": [{"torch": [1]}]},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_part_of_another_form_is_named(said: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.ckpt is damaged: its .+\.$") as error:
        check_form({"state_dict": {}, **WRONG[said]}, "a.ckpt")
    assert said in str(error.value)


def test_what_lightning_writes_has_the_form(tmp_path) -> None:
    trainer = tiny_trainer(tmp_path, [], False, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    check_form(trainer._checkpoint_connector.dump_checkpoint(), "a.ckpt")
