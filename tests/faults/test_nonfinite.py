"""A number that is none, at a step: in the inputs, in a term, in a gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.faults.invariant import Whole, assert_goes_on, checkpoints, newest, run
from tests.faults.table import assert_as_told
from tests.helpers.configs import one_of_many

FAULTS = ("NaN in a loss", "NaN in a gradient")
NAN = float("nan")


class Spoils(Callback):
    """Spoils something before a step."""

    def __init__(self, step: int, spoil: Callable[[Any, Any], None]) -> None:
        self.step = step
        self.spoil = spoil

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.spoil(module, batch)


def spoil_inputs(module: Any, batch: Any) -> None:
    batch["image"][0, 0, 0, 0] = NAN


def spoil_term(module: Any, batch: Any) -> None:
    handle = module.criterion.register_forward_hook(
        lambda *parts: (handle.remove(), parts[2] * NAN)[1]
    )


def spoil_gradient(module: Any, batch: Any) -> None:
    weight = next(module.parameters())
    handle = weight.register_hook(lambda gradient: (handle.remove(), gradient * NAN)[1])


@pytest.mark.parametrize(
    ("fault", "spoil", "step"),
    [
        one_of_many(FAULTS[0], spoil_inputs, 4, quick=False),
        one_of_many(FAULTS[0], spoil_inputs, 7, quick=False),
        (FAULTS[0], spoil_term, 7),
        # with a save after the step, before the loss can tell
        (FAULTS[1], spoil_gradient, 5),
        one_of_many(FAULTS[1], spoil_gradient, 7, quick=False),
    ],
)
def test_nothing_spoilt_is_saved(
    fault: str, spoil: Callable[[Any, Any], None], step: int, whole: Whole, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    outcome = run(whole.args, folder, Spoils(step, spoil))
    assert_as_told(fault, outcome)
    for state in checkpoints(folder).values():
        assert all(bool(value.isfinite().all()) for value in state["state_dict"].values())
    path = newest(folder)
    assert path is not None
    assert 0 < torch.load(path, weights_only=True)["global_step"] <= step
    assert_goes_on(whole, folder)
