"""No module of any domain notices that its samples are looked at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from callbacks import OpposingSignals
from framework.objectives.errors import IncompatibleError
from tests.helpers.configs import DOMAINS, arguments, one_of_many
from tests.helpers.runs import differences, fit

STEPS = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--trainer.logger=false"]

WITHOUT = ("csib", "hypercleaning")
"""Configs whose loss is one number for a batch."""


@pytest.mark.parametrize(
    "system", [one_of_many(name, quick=name == "classifier", system=name) for name in DOMAINS]
)
def test_three_steps_are_those_of_a_run_without_it(
    system: str, tmp_path: Path, data_folder: Path
) -> None:
    args = [*arguments(system, data=data_folder), *STEPS]
    signals = OpposingSignals(probe_size=6, k=2, every_n_steps=1)
    watched = None
    with suppress(IncompatibleError):
        watched = fit([*args, f"--run_folder={tmp_path / 'with'}"], [signals])
    assert (watched is None) == (system in WITHOUT)
    if watched is None:
        return
    plain = fit([*args, f"--run_folder={tmp_path / 'without'}"])
    assert signals.tracker.latest is not None
    assert watched.steps == plain.steps
    assert not differences(watched.parameters, plain.parameters)
    assert not differences(watched.optimizer, plain.optimizer)
